"""icf-deploy."""
