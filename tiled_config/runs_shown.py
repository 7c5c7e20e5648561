"""How what a client gives shows itself: one line, and a table in a notebook."""

from html import escape


class Shown:
    """Says itself by its name and facts."""

    @property
    def name(self) -> str:
        """What messages call it; each class has its own."""
        raise NotImplementedError

    def _facts(self) -> dict[str, str]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{self.name}: {', '.join(f'{name} {text}' for name, text in self._facts().items())}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._facts().items()
        )
        return f"<table><caption>{escape(self.name)}</caption>{rows}</table>"
