"""The status page: what the node's state looks like to a person with a browser."""
