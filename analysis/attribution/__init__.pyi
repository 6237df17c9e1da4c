from .attribution import Attribution as Attribution, attribute as attribute
