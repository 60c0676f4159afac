"""The rollout buffer of every agent, and the minibatches of a rollout."""
