"""Sphinx settings."""

from importlib.metadata import version as _version

project = "snrgate"
author = "the snrgate developers"
release = _version("snrgate")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are executed by the tests and committed with outputs
autodoc_typehints = "none"  # shapes and units stand in the text
napoleon_attr_annotations = False  # for the same reason
autodoc_member_order = "bysource"
exclude_patterns = ["_build", "jupyter_execute"]
nitpicky = False

html_theme = "furo"
html_title = "snrgate"
html_static_path = ["_static"]
