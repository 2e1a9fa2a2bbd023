"""The only writers: every effect outside gpuwarden's own files, brought about by the privileged process."""
