// How every function of the shim fails: no C++ exception leaves it, and its sentence is kept for kd_last_error().
#pragma once
#include <c10/util/Exception.h>

#include <exception>
#include <string>

// The sentence of the last failure on this thread.
inline std::string &last_error() {
    static thread_local std::string sentence;
    return sentence;
}

// Runs `body`, turning any exception into last_error() and `failure`.
template <typename Result, typename Body> Result guarded(Result failure, Body &&body) noexcept {
    try {
        return body();
    } catch (const c10::Error &error) {
        last_error() = error.what_without_backtrace();
    } catch (const std::exception &error) {
        last_error() = error.what();
    } catch (...) {
        last_error() = "an unknown C++ exception";
    }
    return failure;
}
