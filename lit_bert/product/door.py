"""The former name of `access`, which product/openapi.py imports until it is renamed there."""

from lit_bert.product.access import PATHS_WITHOUT_TOKEN as WITHOUT_TOKEN

__all__ = ["WITHOUT_TOKEN"]
