"""The commands that train: what each leaves in the folder of its run."""
