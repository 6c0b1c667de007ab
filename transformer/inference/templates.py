"""Texts that stand for the labels of zero-shot classification (Radford et al. 2021, section 3.1.4)."""

from collections.abc import Sequence

from transformer.errors import UserError

PLAIN = ("{}",)
"""The templates that leave a label as it is."""


def spelled_out(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Returns the texts of each label in turn, one a template, which has {} in the place of the label.

    Raises:
      UserError: no label, or a template without a place for it.
    """
    if not labels or not templates:
        raise UserError("give at least one label, and one template")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"template {template!r} has no {{}}, which stands for the label")
    return [template.replace("{}", label) for label in labels for template in templates]
