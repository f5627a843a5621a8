// The Python binding of the CUDA engine, and of its emulation: GAMEGEN_MODULE is _cuda or _simt.
#include <map>

#include "../binding.h"
#include "bindings.h"
#include "engine.h"
#if defined(GAMEGEN_SIMT)
#include "simt.h"
#endif

using namespace gamegen;

namespace {

class Binding {
public:
    Binding(const nb::dict& config, const nb::dict& weights, const nb::dict& integers, Floats gumbel_table, size_t slots, float temperature,
            const std::string& precision, const std::string& turns)
        : config_(read_config(config)) {
        expect(slots > 0 && slots <= 4096, "slots: expected 1 to 4096, got " + std::to_string(slots));
        expect(temperature >= 0 && temperature < 1e30f, "temperature: expected a finite number >= 0");
        expect(precision == "int8" || precision == "int4", "precision: expected int8 or int4, got '" + precision + "'");
        const std::map<std::string, cuda::Turns> words{{"auto", cuda::Turns::AUTO}, {"device", cuda::Turns::BY_DEVICE},
                                                       {"host", cuda::Turns::BY_HOST}, {"persistent", cuda::Turns::PERSISTENT}};
        expect(words.count(turns), "turns: expected auto, device, host or persistent, got '" + turns + "'");
        expect_shape(gumbel_table, "gumbel_table", {65536});
        const auto shared = [&](const char* name, const std::vector<size_t>& shape) {
            Ints array;
            expect(integers.contains(name) && nb::try_cast(integers[name], array),
                   std::string("integers: expected a writable int64 array ") + name);
            expect_shape(array, name, shape);
            arrays_.push_back(array);
            return array.data();
        };
        const auto cells = static_cast<size_t>(config_.grammar.n_cells());
        numbers_ = {shared("codes", {slots, cells}), shared("anchor", {slots, cells}), shared("origin", {slots, 2}), shared("camera", {slots}),
                    shared("seed", {slots}), shared("position", {slots}), shared("time", {slots}), shared("since_keyframe", {slots})};
        const std::vector<float> table(gumbel_table.data(), gumbel_table.data() + 65536);
        engine_ = std::make_unique<cuda::Engine>(config_, read_tensors(weights), precision == "int4" ? Precision::INT4 : Precision::INT8, slots,
                                                 temperature, table, numbers_, words.at(turns));
    }
    void clear(size_t slot) { at(slot).clear(slot); }
    void prefill(size_t slot, const Rows& rows) {
        cuda::Engine& engine = at(slot);
        const std::vector<Token> tokens = read_tokens(config_, rows);
        const nb::gil_scoped_release unlocked;
        engine.prefill(slot, tokens);
    }
    void renew(size_t slot) { at(slot).renew(slot); }
    nb::tuple step(const std::vector<size_t>& slots, const std::vector<int32_t>& actions) {
        expect(slots.size() == actions.size(), "actions: expected one per slot");
        std::vector<bool> seen(engine_->size());
        for (size_t i = 0; i < slots.size(); ++i) {
            expect(slots[i] < seen.size() && !seen[slots[i]], "slots: expected distinct numbers in 0.." + std::to_string(seen.size() - 1));
            expect(actions[i] >= 0 && actions[i] < config_.grammar.n_actions, "action token: expected 0.." + std::to_string(config_.grammar.n_actions - 1));
            expect(numbers_.position[slots[i]] > 0, "slot " + std::to_string(slots[i]) + ": expected a reset before the first step");
            seen[slots[i]] = true;
        }
        std::vector<cuda::Outcome> outcomes;
        {
            const nb::gil_scoped_release unlocked;
            outcomes = engine_->step(slots, actions);
        }
        return ragged(outcomes);
    }
    nb::dict save(size_t slot) {
        cuda::Context c = at(slot).save(slot);
        nb::dict state;
        state["kv_nibbles"] = lend(std::move(c.nibbles), ring(32));
        state["kv_scale_minimum"] = lend(std::move(c.scale_minimum), ring(2));
        state["held_codes"] = lend(std::move(c.held), {config_.window});
        state["latest_rows"] = lend(std::move(c.latest_rows), {REACH, 3});
        state["latest_motion"] = lend(std::move(c.latest_motion), {REACH, MOTION});
        return state;
    }
    void load(size_t slot, const nb::dict& state) {
        cuda::Engine& engine = at(slot);
        cuda::Context c{get<uint8_t>(state, "kv_nibbles", ring(32)), get<uint16_t>(state, "kv_scale_minimum", ring(2)),
                        get<int16_t>(state, "held_codes", {config_.window}), get<int64_t>(state, "latest_rows", {REACH, 3}),
                        get<float>(state, "latest_motion", {REACH, MOTION})};
        const Grammar& g = config_.grammar;
        for (int16_t code : c.held) expect(code >= -1 && code < g.n_codes, "state['held_codes']: expected codes or -1");
        int64_t before = -1;
        for (size_t i = 0; i < REACH && c.latest_rows[3 * i] >= 0; ++i) {
            const int64_t* r = c.latest_rows.data() + 3 * i;
            expect(r[0] < numbers_.position[slot] && r[0] > before && r[1] >= 0 && r[1] < g.n_cells() && r[2] >= 0 && r[2] <= numbers_.time[slot],
                   "state['latest_rows']: expected ascending positions, cells and times of the past");
            before = r[0];
        }
        engine.load(slot, c);
    }
    // Weights and buffers of the pass are shared out among the slots.
    size_t bytes(size_t slot) { return at(slot).bytes() / engine_->size(); }
    nb::tuple counts() const { return nb::make_tuple(engine_->passes(), 0, 0); }

private:
    cuda::Engine& at(size_t slot) {
        expect(slot < engine_->size(), "slot: expected 0.." + std::to_string(engine_->size() - 1) + ", got " + std::to_string(slot));
        return *engine_;
    }
    std::vector<size_t> ring(size_t last) const { return {2, config_.n_layers, config_.n_kv_heads, config_.window, last}; }
    template <class T> static std::vector<T> get(const nb::dict& state, const char* name, const std::vector<size_t>& shape) {
        nb::ndarray<const T, nb::c_contig, nb::device::cpu> array;
        expect(state.contains(name) && nb::try_cast(state[name], array), std::string("state: expected a contiguous array ") + name);
        expect_shape(array, std::string("state['") + name + "']", shape);
        return {array.data(), array.data() + array.size()};
    }

    const Config config_;
    std::vector<Ints> arrays_;
    cuda::Integers numbers_;
    std::unique_ptr<cuda::Engine> engine_;
};

}  // namespace

NB_MODULE(GAMEGEN_MODULE, m) {
    m.doc() = "The CUDA engine, or its emulation; use it through gamegen_env.engine.cuda.";
    nb::class_<Binding>(m, "Engine")
        .def(nb::init<const nb::dict&, const nb::dict&, const nb::dict&, Floats, size_t, float, const std::string&, const std::string&>(),
             nb::arg("config"), nb::arg("weights"), nb::arg("integers"), nb::arg("gumbel_table"), nb::arg("slots"), nb::arg("temperature"),
             nb::arg("precision"), nb::arg("turns"))
        .def("clear", &Binding::clear)
        .def("prefill", &Binding::prefill)
        .def("renew", &Binding::renew)
        .def("step", &Binding::step)
        .def("save", &Binding::save)
        .def("load", &Binding::load)
        .def("bytes", &Binding::bytes)
        .def("counts", &Binding::counts);
    cuda::bind_checks(m);
    cuda::bind_canvas(m);
#if defined(GAMEGEN_SIMT)
    m.def("seed", [](uint32_t seed) { simt::seed() = seed; }, nb::arg("seed"), "Choose the order in which warps run.");
    m.def("resident_blocks", [](unsigned n) { simt::resident_blocks() = n; }, nb::arg("n"),
          "Choose how many blocks can run at the same time.");
#endif
}
