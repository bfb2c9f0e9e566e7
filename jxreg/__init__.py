"""2D/3D registration of CT and X-ray in JAX: where did the C-arm stand?"""

__version__ = "0.1.0"
