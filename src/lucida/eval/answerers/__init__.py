"""Who answers: a Lucida model, a transformers model, an endpoint."""
