from faked_stages import faked

__all__ = ["faked"]
