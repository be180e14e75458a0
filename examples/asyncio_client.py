"""The same verbs on an event loop, for a web application: nothing blocks while the workers compute."""

import asyncio
import sys

from mutirao import AsyncClient, MutiraoError, SignatureMismatch


async def main() -> None:
    async with AsyncClient() as client:
        answers = await asyncio.gather(
            *(client.predict("iris", [[5.1, 3.5, 1.4, size]], timeout=30) for size in (0.2, 2.3))
        )
        print("species:", [int(answer["predict"][0]) for answer in answers])
        try:
            await client.submit("iris", [[5.1, 3.5]])
        except SignatureMismatch as exc:
            print("refused before it was queued:", exc)


try:
    asyncio.run(main())
except MutiraoError as exc:
    sys.exit(f"error: {exc}")
