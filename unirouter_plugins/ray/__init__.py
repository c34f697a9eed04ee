"""Ray Data: millions of prompts."""
