"""Analysis and embeddings over HTTP."""
