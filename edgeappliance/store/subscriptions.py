"""MQTT topics that rules of the cloud subscribed to (KubeEdge reference 5, table `sub_topics`)."""

from edgeappliance.kernel.database import Database, Transaction


class SubscriptionStore:
    """Desired state: survives a restart, written with a full fsync."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, topic: str) -> None:
        """Remember the topic; twice is once."""

        def write(transaction: Transaction) -> None:
            transaction.execute("INSERT OR IGNORE INTO sub_topic (topic) VALUES (?)", (topic,))

        await self._database.write(write, durable=True)

    async def remove(self, topic: str) -> None:
        """Forget the topic; an unknown one is no error."""

        def write(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM sub_topic WHERE topic = ?", (topic,))

        await self._database.write(write, durable=True)

    async def topics(self) -> list[str]:
        """All remembered topics, sorted."""

        def read(transaction: Transaction) -> list[str]:
            return [str(topic) for (topic,) in transaction.execute("SELECT topic FROM sub_topic ORDER BY topic")]

        return await self._database.read(read)
