"""/containerLogs: what a container wrote, as far back and as far on as was asked for."""

from edgeappliance.edged.engine.api import Engine
from edgeappliance.edged.kubelet.query import LogOptions
from edgeappliance.kernel.web.exchange import Exchange


async def run_logs(exchange: Exchange, engine: Engine, id: str, options: LogOptions) -> None:
    """Stream the log of one container. Raises EngineAway, EngineRefused before the answer has begun."""
    logs = await engine.logs(id, options.query)
    try:
        stream = await exchange.stream(200, "text/plain")
        left = options.limit
        async for kind, data in logs:
            if options.stream and kind != options.stream:
                continue
            if left is None:
                await stream.write(data)
                continue
            await stream.write(data[:left])
            left -= len(data)
            if left <= 0:
                return
    finally:
        await logs.aclose()
