"""Training and evaluation: photos, losses, the loop, and scores that stand beside the no-colour baseline."""
