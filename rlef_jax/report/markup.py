"""Renders the templates of the pages as HTML."""

import os

import jinja2
from markupsafe import Markup

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(__file__), "templates")),
    autoescape=True,  # of every template, whatever its name ends with
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def render(template: str, **values) -> Markup:
    """A template of `templates/` with these values, each escaped unless it is Markup."""
    return Markup(_TEMPLATES.get_template(template).render(values))
