"""A shop for several tenants: FastAPI, SQLAlchemy, and a cache that is told by the sessions themselves."""
