"""Sphinx settings of the site: build.py lays the sources out and calls Sphinx; nothing is run."""

project = "Sandbagging, step by step"
author = "The sandbagging suite authors"
copyright = author
extensions = ["myst_nb", "sphinx_togglebutton"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"  # the pages are the committed reference run
nb_output_stderr = "remove"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist", "html_image"]
myst_heading_anchors = 3
myst_update_mathjax = False  # what it sets is for MathJax 3
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}

# Maths without the network: MathJax 2 comes out of a wheel (jupyter-server-mathjax), with STIX as
# its only font.
mathjax_path = "mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe"
mathjax2_config = {
    "HTML-CSS": {
        "availableFonts": [], "imageFont": None, "webFont": "STIX-Web",
        "linebreaks": {"automatic": True, "width": "container"},
        # Its empty font comes from about:blank, which a browser refuses to a page from the disk.
        "styles": {"@font-face": {"font-family": "MathJax_Blank", "src": "local('sans-serif')"}},
    },
    # The pages as a whole are left alone: a dollar in a table is a dollar.
    "tex2jax": {"processClass": "math|output_area"},
    "showMathMenu": False,
    "messageStyle": "none",
}  # fmt: skip
