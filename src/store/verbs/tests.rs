//! Rules of the verbs on a real store in a directory of its own.
