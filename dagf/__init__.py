"""Deep Attentive Global Features (DAGF) for image retrieval: the method, its evaluation and its study.

Layers, each knowing only those before it: :mod:`dagf.model` and :mod:`dagf.datasets`,
:mod:`dagf.retrieval`, :mod:`dagf.study`, and the command line in :mod:`dagf.cli`.
"""

__version__ = "1.0.0"
