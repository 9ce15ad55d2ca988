"""Making a trained model small, and proving that what is served equals what was trained."""
