"""The parts of the LlamaIndex plugin, in the order of a call: what is asked, of whom, and what became of it."""
