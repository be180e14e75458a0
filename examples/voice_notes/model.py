"""Voice notes to text: the bytes of a WAV in, what was said out."""

import io
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pocketsphinx
from scipy.signal import resample_poly

from mutirao import InvalidInput

Samples = npt.NDArray[np.int16]

RATE = 16_000  # Hz, of the acoustic model
LONGEST_S = 120
FRAME = RATE // 50  # 20 ms
PAUSE = 20  # frames of silence that end a phrase, 0.4 s
QUIET = 0.05  # a frame is silence below this share of the loudest one


class Model:
    """One note a call, because its annotations say so: a note that is refused does not touch the others."""

    def load(self, folder: Path) -> None:
        # With the English model of PocketSphinx's own wheel; README.md has the line for another language.
        self.decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="ERROR")

    def predict(self, audio: bytes) -> str:
        texts = [self.text(phrase) for phrase in phrases(samples(audio))]
        return "\n".join(text for text in texts if text)

    def text(self, phrase: Samples) -> str:
        self.decoder.start_utt()
        self.decoder.process_raw(phrase.tobytes(), full_utt=True)
        self.decoder.end_utt()
        best = self.decoder.hyp()
        return str(best.hypstr) if best else ""


def samples(audio: bytes) -> Samples:
    """Return the samples of a WAV at 16 kHz, its channels mixed."""
    try:
        with wave.open(io.BytesIO(audio)) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            content = file.readframes(LONGEST_S * rate + 1)
    except (wave.Error, EOFError) as exc:
        text = f"the note is no WAV of plain samples ({str(exc) or 'it ends early'}): convert it, with ffmpeg -i NOTE -c:a pcm_s16le note.wav"
        raise InvalidInput(text) from exc
    if width != 2:
        raise InvalidInput(f"the note has samples of {8 * width} bits: send 16")
    if not 8_000 <= rate <= 192_000:
        raise InvalidInput(f"the note has {rate:,} samples a second: send 8,000 to 192,000")
    mixed = np.frombuffer(content[: len(content) // (2 * channels) * 2 * channels], "<i2").reshape(-1, channels).mean(1)
    if len(mixed) > LONGEST_S * rate:
        raise InvalidInput(f"the note is longer than {LONGEST_S} s: send it in parts")
    at_rate = resample_poly(mixed, RATE, rate) if len(mixed) else mixed
    return np.asarray(np.clip(at_rate, -32_768, 32_767), dtype=np.int16)


def phrases(note: Samples) -> list[Samples]:
    """Cut a note at its pauses: the stretches that are not silent, each with a little of the silence around it."""
    frames = note[: len(note) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    loudness = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(loudness > QUIET * loudness.max(initial=1.0))
    if not len(loud):
        return []
    pauses = np.flatnonzero(np.diff(loud) > PAUSE)
    starts, ends = loud[[0, *(pauses + 1)]], loud[[*pauses, -1]] + 1
    return [
        note[max(0, start - PAUSE // 2) * FRAME : (end + PAUSE // 2) * FRAME]
        for start, end in zip(starts, ends, strict=True)
    ]
