"""What stands between a LangChain conversation and the chat model that answers it, in the order that a call passes."""
