"""Every error that Cadenza raises on purpose. Imports nothing.

MusicError
├─ MidiError            bytes that are neither MIDI nor MusicXML, or too many   → 400
├─ EncodingError        music or a config that an encoding cannot express       → 422
├─ SettingError         a setting outside its range                             → 422
├─ RecordError          a TFRecord, dataset or card: damaged, missing, too new  → 502
├─ SoundFontError       a sound font: missing, damaged, or silent for the notes → 422
├─ MissingDependency    a library is not installed; says how to install it      → 406; 415 for a seed
├─ StorageError         a bucket refused a request; says what to do
│  ├─ Conflict          another writer has changed the file that we write
│  └─ Unreachable       the bucket gave no good answer for some minutes
└─ BackendError         a reply of the model that breaks the contract           → 502
   ├─ Unavailable       no server, or the model's version is gone               → 503
   ├─ Overloaded        too many requests at once                               → 429
   └─ DeadlineExceeded  no answer in time                                       → 504
"""


class MusicError(Exception):
    """Any error of this project."""


class MidiError(MusicError):
    """The bytes are neither a Standard MIDI File nor MusicXML that we can read."""


class EncodingError(MusicError):
    """An encoding cannot express the music, or its configuration makes no encoding."""


class SettingError(MusicError):
    """A setting of a generation, or a number of a recipe, is outside its range."""


class RecordError(MusicError):
    """A TFRecord, a dataset folder or a model card is damaged, missing or newer than this code."""


class SoundFontError(MusicError):
    """A sound font is missing or damaged, or has no sound for the notes."""


class MissingDependency(MusicError):
    """A library of one of our extras, or of the system, is missing. The message has the command that installs it."""


class StorageError(MusicError):
    """A bucket, or a request to it, is not as it should be. The message says what to do."""


class Conflict(StorageError):
    """A file has changed since we last read or wrote it: another writer writes it, too."""


class Unreachable(StorageError):
    """A bucket gave no good answer in all the time that we try."""


class BackendError(MusicError):
    """The model did not answer, or its reply breaks the contract."""


class Unavailable(BackendError):
    """No server answers, or the model or its version is not there."""


class Overloaded(BackendError):
    """The model has too many requests at once; try again later."""


class DeadlineExceeded(BackendError):
    """The answer did not come in time."""
