"""Pages and records that come out of a flow."""
