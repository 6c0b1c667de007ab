"""Images to train on: folders by class, captions, shards, and what is drawn here."""
