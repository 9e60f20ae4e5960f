"""One file a task: its settings, its data, the loss of one example and what is measured."""
