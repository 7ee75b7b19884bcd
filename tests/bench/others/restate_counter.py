"""A durable counter as a virtual object of Restate; an ASGI application that Restate calls."""

from __future__ import annotations

import restate

counter = restate.VirtualObject("counter")


@counter.handler()
async def increment(ctx: restate.ObjectContext, request: dict[str, int]) -> dict[str, int]:
    count = (await ctx.get("count") or 0) + request["amount"]
    ctx.set("count", count)
    return {"count": count}


app = restate.app([counter])
