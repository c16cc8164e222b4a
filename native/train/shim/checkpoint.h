// Activation checkpointing: autograd forgets what a segment of the program saved, and a callback runs the segment again
// when backward asks for it. Rust's half is src/shim_checkpoint.rs. The rules of shim.h hold here too.
#pragma once

extern "C" {
struct KdFrame;

// From here until kd_frame_leave, what this thread's operators save for backward is forgotten. When backward first needs
// any of it, `recompute(context)` runs on the thread of the backward, with gradients on and in the autocast of now: it
// must run the same operators on the same values, and returns false on failure, which fails the backward. `release`
// frees the context when nothing needs it any more, on any thread, or at once if this fails. None of them may unwind.
KdFrame *kd_frame_enter(void *context, bool (*recompute)(void *context), void (*release)(void *context));
// Ends the forgetting on the thread that began it.
void kd_frame_leave(KdFrame *frame);
// Within `recompute`: whether everything that was forgotten is there again, so that the rest need not run.
bool kd_frame_complete();
}
