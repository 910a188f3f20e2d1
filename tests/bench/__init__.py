"""What a round costs when training costs nothing: ``ops/bench``."""
