#include "shim.h"
#include "guarded.h"

#include <ATen/ops/empty.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ScalarOps.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>
#include <torch/version.h>

#include <cstring>
#include <mutex>
#include <string>
#include <vector>

namespace {

enum class SlotKind { Tensor, Tensors, Number, Numbers };

struct Slot {
    size_t argument;
    SlotKind kind;
    std::vector<uint8_t> given; // per element: takes the next tensor or number
    std::vector<KdNumber> values;
};

c10::Scalar scalar(const KdNumber &number) {
    switch (number.kind) {
    case 0:
        return number.integer;
    case 1:
        return number.real;
    default:
        return number.integer != 0;
    }
}

} // namespace

struct KdCall {
    c10::OperatorHandle op;
    std::vector<c10::IValue> constants;
    std::vector<uint8_t> set;
    std::vector<Slot> slots;
    bool complete = false;
    torch::jit::Stack stack;

    explicit KdCall(c10::OperatorHandle handle) : op(std::move(handle)) {
        for (const auto &argument : op.schema().arguments()) {
            constants.push_back(argument.default_value().value_or(c10::IValue()));
            set.push_back(argument.default_value().has_value());
        }
    }

    size_t index_of(const char *name) {
        auto index = op.schema().argumentIndexWithName(name);
        TORCH_CHECK(index.has_value(), "operator ", op.schema().name(), " has no argument named ", name);
        set[*index] = true;
        return static_cast<size_t>(*index);
    }

    // The argument's type without an Optional around it.
    c10::TypePtr type_of(size_t index) const {
        auto type = op.schema().arguments()[index].type();
        if (auto optional = type->cast<c10::OptionalType>()) {
            type = optional->getElementType();
        }
        return type;
    }

    // A number where the schema wants a tensor is a "wrapped number": it takes part in type promotion as Python's do.
    c10::IValue number(size_t index, const c10::Scalar &value) const {
        auto type = type_of(index);
        switch (type->kind()) {
        case c10::TypeKind::TensorType: {
            auto tensor = c10::scalar_to_tensor(value);
            tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
            return tensor;
        }
        case c10::TypeKind::FloatType:
            return value.toDouble();
        case c10::TypeKind::BoolType:
            return value.toBool();
        case c10::TypeKind::ListType: // int[2]? given as one number: torch expands it
            if (value.isIntegral(false)) {
                auto length = op.schema().arguments()[index].N().value_or(1);
                return c10::List<int64_t>(std::vector<int64_t>(length, value.toLong()));
            }
            TORCH_CHECK(false, "argument ", op.schema().arguments()[index].name(), " wants a list");
        default:
            return c10::IValue(value);
        }
    }

    // A list where the schema wants one: of floats, or of integers (`int[]`, `SymInt[]`).
    c10::IValue numbers(size_t index, const std::vector<KdNumber> &values) const {
        auto list = type_of(index)->cast<c10::ListType>();
        TORCH_CHECK(list, "argument ", op.schema().arguments()[index].name(), " takes no list of numbers");
        if (list->getElementType()->kind() == c10::TypeKind::FloatType) {
            c10::List<double> result;
            result.reserve(values.size());
            for (const auto &value : values) {
                result.push_back(scalar(value).toDouble());
            }
            return result;
        }
        c10::List<int64_t> result;
        result.reserve(values.size());
        for (const auto &value : values) {
            TORCH_CHECK(value.kind != 1, "argument ", op.schema().arguments()[index].name(), " takes integers");
            result.push_back(value.integer);
        }
        return result;
    }

    c10::IValue tensors(size_t index, std::vector<std::optional<at::Tensor>> &&elements) const {
        auto list = type_of(index)->cast<c10::ListType>();
        TORCH_CHECK(list, "argument ", op.schema().arguments()[index].name(), " takes no list of tensors");
        if (list->getElementType()->kind() == c10::TypeKind::OptionalType) {
            c10::List<std::optional<at::Tensor>> result;
            result.reserve(elements.size());
            for (auto &element : elements) {
                result.push_back(std::move(element));
            }
            return result;
        }
        c10::List<at::Tensor> result;
        result.reserve(elements.size());
        for (auto &element : elements) {
            TORCH_CHECK(element.has_value(), "argument ", op.schema().arguments()[index].name(), " takes no None");
            result.push_back(std::move(*element));
        }
        return result;
    }
};

struct KdGenerator {
    int8_t gpu; // -1: the CPU
    // On the CPU.
    at::mt19937 engine;
    std::optional<float> next_float_normal;
    std::optional<double> next_double_normal;
    // On a GPU, whose numbers are those of Philox: a function of these two.
    uint64_t seed;
    uint64_t offset;
};

namespace {

// Operators draw from the one default generator that the process has for a device. Ranks that share the process take turns:
// each puts its own state in, runs, and takes it out again. Only random operators pay for it.
std::mutex default_generator_turn;

void exchange(at::CPUGeneratorImpl *impl, KdGenerator &generator) {
    auto engine = impl->engine();
    auto next_float = impl->next_float_normal_sample();
    auto next_double = impl->next_double_normal_sample();
    impl->set_engine(generator.engine);
    impl->set_next_float_normal_sample(generator.next_float_normal);
    impl->set_next_double_normal_sample(generator.next_double_normal);
    generator.engine = engine;
    generator.next_float_normal = next_float;
    generator.next_double_normal = next_double;
}

// An operator takes seed and offset when it is launched, so the state may go on to another rank while the GPU still draws.
void exchange(c10::GeneratorImpl *impl, KdGenerator &generator) {
    auto seed = impl->current_seed(), offset = impl->get_offset();
    impl->set_current_seed(generator.seed);
    impl->set_offset(generator.offset);
    generator.seed = seed;
    generator.offset = offset;
}

// Holds the turn with the rank's generator in place.
struct Turn {
    std::lock_guard<std::mutex> turn{default_generator_turn};
    at::Generator shared;
    KdGenerator &generator;

    explicit Turn(KdGenerator &own) : shared(default_of(own.gpu)), generator(own) { swap(); }
    ~Turn() { swap(); }

    static at::Generator default_of(int8_t gpu) {
        return gpu < 0 ? at::detail::getDefaultCPUGenerator()
                       : at::globalContext().defaultGenerator(at::Device(at::kCUDA, gpu));
    }
    void swap() {
        std::lock_guard<std::mutex> guard(shared.mutex());
        if (generator.gpu < 0) {
            exchange(at::check_generator<at::CPUGeneratorImpl>(shared), generator);
        } else {
            exchange(shared.unsafeGetGeneratorImpl(), generator);
        }
    }
};

// What torch.Generator("cuda").get_state() is: seed and offset, 8 bytes each.
constexpr int64_t philox_bytes = 16;

} // namespace

extern "C" {

const char *kd_last_error() { return last_error().c_str(); }
const char *kd_torch_version() { return TORCH_VERSION; }

KdCall *kd_call_new(const char *name, const char *overload) {
    return guarded<KdCall *>(nullptr, [&] {
        return new KdCall(c10::Dispatcher::singleton().findSchemaOrThrow(name, overload));
    });
}
void kd_call_free(KdCall *call) { delete call; }
bool kd_call_is_random(const KdCall *call) { return call->op.hasTag(at::Tag::nondeterministic_seeded); }

bool kd_call_takes(const KdCall *call, const char *argument) {
    return call->op.schema().argumentIndexWithName(argument).has_value();
}

bool kd_call_set_none(KdCall *call, const char *argument) {
    return guarded(false, [&] {
        call->constants[call->index_of(argument)] = c10::IValue();
        return true;
    });
}
bool kd_call_set_int(KdCall *call, const char *argument, int64_t value) {
    return guarded(false, [&] {
        auto index = call->index_of(argument);
        call->constants[index] = call->number(index, value);
        return true;
    });
}
bool kd_call_set_float(KdCall *call, const char *argument, double value) {
    return guarded(false, [&] {
        auto index = call->index_of(argument);
        call->constants[index] = call->number(index, value);
        return true;
    });
}
bool kd_call_set_bool(KdCall *call, const char *argument, bool value) {
    return guarded(false, [&] {
        auto index = call->index_of(argument);
        call->constants[index] = call->number(index, value);
        return true;
    });
}
bool kd_call_set_string(KdCall *call, const char *argument, const char *value) {
    return guarded(false, [&] {
        call->constants[call->index_of(argument)] = c10::IValue(std::string(value));
        return true;
    });
}
bool kd_call_set_floats(KdCall *call, const char *argument, const double *values, size_t count) {
    return guarded(false, [&] {
        call->constants[call->index_of(argument)] = c10::List<double>(std::vector<double>(values, values + count));
        return true;
    });
}
bool kd_call_set_bools(KdCall *call, const char *argument, const bool *values, size_t count) {
    return guarded(false, [&] {
        c10::List<bool> list;
        for (size_t i = 0; i < count; ++i) {
            list.push_back(values[i]);
        }
        call->constants[call->index_of(argument)] = std::move(list);
        return true;
    });
}
bool kd_call_set_enum(KdCall *call, const char *argument, int64_t value) {
    return guarded(false, [&] {
        call->constants[call->index_of(argument)] = c10::IValue(value);
        return true;
    });
}
bool kd_call_set_device(KdCall *call, const char *argument, const char *device) {
    return guarded(false, [&] {
        call->constants[call->index_of(argument)] = c10::IValue(c10::Device(std::string(device)));
        return true;
    });
}

bool kd_call_bind_tensor(KdCall *call, const char *argument) {
    return guarded(false, [&] {
        call->slots.push_back(Slot{call->index_of(argument), SlotKind::Tensor, {}, {}});
        return true;
    });
}
bool kd_call_bind_tensors(KdCall *call, const char *argument, const bool *present, size_t count) {
    return guarded(false, [&] {
        call->slots.push_back(
            Slot{call->index_of(argument), SlotKind::Tensors, std::vector<uint8_t>(present, present + count), {}});
        return true;
    });
}
bool kd_call_bind_number(KdCall *call, const char *argument) {
    return guarded(false, [&] {
        call->slots.push_back(Slot{call->index_of(argument), SlotKind::Number, {}, {}});
        return true;
    });
}
bool kd_call_bind_numbers(KdCall *call, const char *argument, const KdNumber *values, const bool *variable, size_t count) {
    return guarded(false, [&] {
        call->slots.push_back(Slot{call->index_of(argument), SlotKind::Numbers,
                                   std::vector<uint8_t>(variable, variable + count),
                                   std::vector<KdNumber>(values, values + count)});
        return true;
    });
}

bool kd_call_run(KdCall *call, at::Tensor *const *tensors, size_t tensor_count, const KdNumber *numbers, size_t number_count,
                 KdGenerator *generator) {
    return guarded(false, [&] {
        if (!call->complete) {
            for (size_t i = 0; i < call->set.size(); ++i) {
                TORCH_CHECK(call->set[i], "operator ", call->op.schema().name(), " lacks its argument ",
                            call->op.schema().arguments()[i].name());
            }
            call->complete = true;
        }
        size_t tensor = 0, number = 0;
        auto next_tensor = [&]() -> const at::Tensor & {
            TORCH_CHECK(tensor < tensor_count, "too few tensors");
            return *tensors[tensor++];
        };
        auto next_number = [&] {
            TORCH_CHECK(number < number_count, "too few numbers");
            return numbers[number++];
        };
        auto &stack = call->stack;
        stack.assign(call->constants.begin(), call->constants.end());
        for (const auto &slot : call->slots) {
            switch (slot.kind) {
            case SlotKind::Tensor:
                stack[slot.argument] = next_tensor();
                break;
            case SlotKind::Tensors: {
                std::vector<std::optional<at::Tensor>> elements;
                elements.reserve(slot.given.size());
                for (auto given : slot.given) {
                    elements.push_back(given ? std::optional<at::Tensor>(next_tensor()) : std::nullopt);
                }
                stack[slot.argument] = call->tensors(slot.argument, std::move(elements));
                break;
            }
            case SlotKind::Number:
                stack[slot.argument] = call->number(slot.argument, scalar(next_number()));
                break;
            case SlotKind::Numbers: {
                auto values = slot.values;
                for (size_t i = 0; i < values.size(); ++i) {
                    if (slot.given[i]) {
                        values[i] = next_number();
                    }
                }
                stack[slot.argument] = call->numbers(slot.argument, values);
                break;
            }
            }
        }
        TORCH_CHECK(tensor == tensor_count && number == number_count, "more values than the operator takes");
        if (generator != nullptr) {
            Turn turn(*generator);
            call->op.callBoxed(stack);
        } else {
            call->op.callBoxed(stack);
        }
        return true;
    });
}

at::Tensor *kd_call_take_tensor(KdCall *call, size_t index) {
    return guarded<at::Tensor *>(nullptr, [&] { return new at::Tensor(std::move(call->stack.at(index)).toTensor()); });
}
bool kd_call_list_length(KdCall *call, size_t index, size_t *length) {
    return guarded(false, [&] {
        *length = call->stack.at(index).toTensorList().size();
        return true;
    });
}
at::Tensor *kd_call_take_list_tensor(KdCall *call, size_t index, size_t element) {
    return guarded<at::Tensor *>(nullptr,
                                 [&] { return new at::Tensor(call->stack.at(index).toTensorList().get(element)); });
}
bool kd_call_take_number(KdCall *call, size_t index, KdNumber *number) {
    return guarded(false, [&] {
        auto value = call->stack.at(index).toScalar();
        if (value.isBoolean()) {
            *number = KdNumber{2, value.toBool(), 0};
        } else if (value.isIntegral(false)) {
            *number = KdNumber{0, value.toLong(), 0};
        } else {
            *number = KdNumber{1, 0, value.toDouble()};
        }
        return true;
    });
}
void kd_call_clear(KdCall *call) { call->stack.clear(); }

KdGenerator *kd_generator_new(uint64_t seed, int8_t gpu) {
    return guarded<KdGenerator *>(nullptr, [&] { return new KdGenerator{gpu, at::mt19937(seed), {}, {}, seed, 0}; });
}
void kd_generator_free(KdGenerator *generator) { delete generator; }
KdGenerator *kd_generator_clone(const KdGenerator *generator) {
    return guarded<KdGenerator *>(nullptr, [&] { return new KdGenerator(*generator); });
}
// Through a generator of libtorch's own kind, whose state is what torch.Generator.get_state() returns.
at::Tensor *kd_generator_state(const KdGenerator *generator) {
    return guarded<at::Tensor *>(nullptr, [&] {
        if (generator->gpu >= 0) {
            auto state = at::empty({philox_bytes}, at::kByte);
            auto *bytes = state.mutable_data_ptr<uint8_t>();
            std::memcpy(bytes, &generator->seed, sizeof(generator->seed));
            std::memcpy(bytes + sizeof(generator->seed), &generator->offset, sizeof(generator->offset));
            return new at::Tensor(state);
        }
        at::CPUGeneratorImpl whole;
        whole.set_engine(generator->engine);
        whole.set_next_float_normal_sample(generator->next_float_normal);
        whole.set_next_double_normal_sample(generator->next_double_normal);
        return new at::Tensor(whole.get_state());
    });
}
bool kd_generator_set_state(KdGenerator *generator, const at::Tensor *state) {
    return guarded(false, [&] {
        auto of_gpu = state->numel() == philox_bytes;
        TORCH_CHECK(of_gpu == (generator->gpu >= 0), "these random numbers were drawn on a ", of_gpu ? "GPU" : "CPU",
                    ", and this run is on another kind of device");
        if (of_gpu) {
            auto whole = state->contiguous();
            const auto *bytes = whole.const_data_ptr<uint8_t>();
            uint64_t offset = 0;
            std::memcpy(&offset, bytes + sizeof(generator->seed), sizeof(offset));
            TORCH_CHECK(offset % 4 == 0, "the state of a GPU's random numbers is damaged");
            std::memcpy(&generator->seed, bytes, sizeof(generator->seed));
            generator->offset = offset;
            return true;
        }
        at::CPUGeneratorImpl whole;
        whole.set_state(*state->unsafeGetTensorImpl());
        generator->engine = whole.engine();
        generator->next_float_normal = whole.next_float_normal_sample();
        generator->next_double_normal = whole.next_double_normal_sample();
        return true;
    });
}
}
