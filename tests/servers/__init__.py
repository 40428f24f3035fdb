"""Tests with real servers: a PostgreSQL database, an MLflow server with a login before it, and a stand-in for S3."""
