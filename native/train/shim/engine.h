// The engine that runs backward. Between the files of the shim.
#pragma once

// Puts our engine, which knows of checkpointed segments, in the place of libtorch's plain one; once is enough.
void use_engine();
// Puts a fresh one there: an engine makes a thread for each GPU at its first backward, and none for those that come later.
void renew_engine();
