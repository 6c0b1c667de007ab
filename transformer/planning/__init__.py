"""Planning: memory and collectives of a step on devices that nobody has paid for yet."""
