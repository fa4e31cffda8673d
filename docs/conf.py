"""Sphinx configuration. ``make docs`` (docs/build.py) also fetches KaTeX and checks the result."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions")]

import patient_katex  # noqa: E402

import lossref  # noqa: E402

project = "lossref"
author = "The lossref developers"
copyright = "The lossref developers"
version = release = lossref.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinxcontrib.katex",
    "sphinx_design",
    "sphinx_copybutton",
    "loss_pages",
]
exclude_patterns = ["_build", "_extensions", "losses/plots.json", "**/.ipynb_checkpoints"]
root_doc = "index"
highlight_language = "none"  # a block that names no language is no Python
smartquotes = False  # reduction="none" is code, also in prose

# Mathematics is rendered while building: pages hold plain HTML, need no script and no network.
katex_prerender = True
katex_css_path = "katex/katex.min.css"
patient_katex.install()

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables in outputs

autodoc_member_order = "bysource"
autodoc_typehints = "none"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "lossref"
html_static_path = ["_static"]
html_css_files = ["lossref.css"]
# Pages that are no part of a section have nothing to show at their side.
html_sidebars = {
    page: [] for page in ("index", "numerics", "exact", "paths", "dask", "bench", "losses/adding_a_loss", "losses/core")
}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "lossref"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
    "collapse_navigation": True,
    "show_nav_level": 1,
}
