"""The outbox as operations of Alembic: import this module in a migration, and its `op` can make the tables.

import unstale.sources.migrations

def upgrade():
    op.create_unstale_outbox()

def downgrade():
    op.drop_unstale_outbox()
"""

from __future__ import annotations

from typing import Self

from alembic.operations import MigrateOperation, Operations

from unstale.sources.dialects import TABLE, checked, dialect_of


@Operations.register_operation("create_unstale_outbox")
class CreateOutbox(MigrateOperation):
    """Makes the tables of an outbox, where they are missing.

    Args:
        table: The name of its table.
    """

    def __init__(self, table: str) -> None:
        self.table = checked(table)

    @classmethod
    def create_unstale_outbox(cls, operations: Operations, *, table: str = TABLE) -> Self:
        """Make the tables.

        Args:
            operations: Alembic's own.
            table: The name of its table.
        """
        made = cls(table)
        operations.invoke(made)
        return made

    def reverse(self) -> DropOutbox:
        """Give what takes it back."""
        return DropOutbox(self.table)


@Operations.register_operation("drop_unstale_outbox")
class DropOutbox(MigrateOperation):
    """Removes the tables of an outbox, and what waits in it.

    Args:
        table: The name of its table.
    """

    def __init__(self, table: str) -> None:
        self.table = checked(table)

    @classmethod
    def drop_unstale_outbox(cls, operations: Operations, *, table: str = TABLE) -> Self:
        """Remove the tables.

        Args:
            operations: Alembic's own.
            table: The name of its table.
        """
        made = cls(table)
        operations.invoke(made)
        return made

    def reverse(self) -> CreateOutbox:
        """Give what takes it back."""
        return CreateOutbox(self.table)


@Operations.implementation_for(CreateOutbox)
def _create(operations: Operations, operation: CreateOutbox) -> None:
    for statement in dialect_of(operations.get_context().dialect.name).create(operation.table):
        operations.execute(statement.replace(":", r"\:"))


@Operations.implementation_for(DropOutbox)
def _drop(operations: Operations, operation: DropOutbox) -> None:
    for statement in dialect_of(operations.get_context().dialect.name).drop(operation.table):
        operations.execute(statement)
