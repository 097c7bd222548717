"""RLEF in JAX: teach language models to use execution feedback (arXiv 2410.02089)."""
