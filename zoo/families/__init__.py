"""One folder a family: its network and loss, its facts, and what only it has to say."""
