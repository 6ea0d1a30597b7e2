"""The folder that ``monailabel start_server --app`` is given."""
