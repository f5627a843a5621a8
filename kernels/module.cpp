// The Python binding. Everything that comes in is checked here, once.
#include "binding.h"
#include "engine.h"

namespace nb = nanobind;
using namespace gamegen;

namespace {

// Keeps the arrays that engine and Python share alive.
class NativeEngine {
public:
    NativeEngine(const nb::dict& config, const nb::dict& weights, const nb::dict& integers, Floats gumbel_table, size_t slots,
                 float temperature, int kv_bits, const std::string& precision, const std::string& isa, size_t threads)
        : config_(read_config(config)) {
        expect(slots > 0, "slots: expected >= 1, got 0");
        expect(threads > 0 && threads <= 1024, "threads: expected 1 to 1024, got " + std::to_string(threads));
        expect(temperature >= 0 && temperature < 1e30f, "temperature: expected a finite number >= 0");
        expect(kv_bits == 4 || kv_bits == 16, "kv_bits: expected 4 or 16, got " + std::to_string(kv_bits));
        expect(precision == "int8" || precision == "int4" || precision == "float32",
               "precision: expected int8, int4 or float32, got '" + precision + "'");
        const Precision arithmetic = precision == "int8"   ? Precision::INT8
                                     : precision == "int4" ? Precision::INT4
                                                           : Precision::FLOAT;
        expect_shape(gumbel_table, "gumbel_table", {65536});
        const auto cells = static_cast<size_t>(config_.grammar.n_cells());
        const auto shared = [&](const char* name, const std::vector<size_t>& shape) {
            Ints array;
            expect(integers.contains(name) && nb::try_cast(integers[name], array),
                   std::string("integers: expected a writable int64 array ") + name);
            expect_shape(array, name, shape);
            arrays_.push_back(array);
            return array.data();
        };
        const Integers numbers{shared("codes", {slots, cells}), shared("anchor", {slots, cells}), shared("origin", {slots, 2}), shared("camera", {slots}),
                               shared("seed", {slots}), shared("position", {slots}), shared("time", {slots}),
                               shared("since_keyframe", {slots})};
        const Options options{slots, temperature, kv_bits == 16, arithmetic, isa, threads};
        const std::vector<float> table(gumbel_table.data(), gumbel_table.data() + 65536);
        const Tensors tensors = read_tensors(weights);
        engine_ = std::make_unique<Engine>(config_, tensors, options, table, numbers);
    }

    void clear(size_t slot) { idle(slot).clear(); }

    void prefill(size_t slot, const Rows& rows) {
        idle(slot);
        const std::vector<Token> tokens = read_tokens(config_, rows);
        const nb::gil_scoped_release unlocked;
        engine_->prefill(slot, tokens);
    }

    // The same, and the logits at every token of what comes after it: events, codes of updates, rewards with game overs.
    nb::tuple score(size_t slot, const Rows& rows) {
        idle(slot);
        const std::vector<Token> tokens = read_tokens(config_, rows);
        Scores scores;
        {
            const nb::gil_scoped_release unlocked;
            engine_->prefill(slot, tokens, &scores);
        }
        const auto lend_rows = [](std::vector<float>& values, size_t width) {
            const size_t n = values.size() / width;
            return lend(std::move(values), {n, width});
        };
        return nb::make_tuple(lend_rows(scores.events, static_cast<size_t>(config_.grammar.n_events())),
                              lend_rows(scores.codes, static_cast<size_t>(config_.grammar.n_codes) + config_.n_motions()),
                              lend_rows(scores.ends, 5));
    }

    nb::tuple step(const std::vector<int64_t>& slots, const std::vector<int64_t>& actions) {
        std::vector<Outcome> outcomes;
        {
            const nb::gil_scoped_release unlocked;
            outcomes = engine_->step(numbers(slots), tokens(actions));
        }
        return ragged(outcomes);
    }

    void send(const std::vector<int64_t>& slots, const std::vector<int64_t>& actions) {
        engine_->send(numbers(slots), tokens(actions));
    }

    // Slots of finished steps, and what happened in them.
    nb::tuple receive(size_t count) {
        std::vector<std::pair<size_t, Outcome>> received;
        {
            const nb::gil_scoped_release unlocked;
            received = engine_->receive(count);
        }
        std::vector<int64_t> slots;
        std::vector<Outcome> outcomes;
        for (auto& [slot, outcome] : received) {
            slots.push_back(static_cast<int64_t>(slot));
            outcomes.push_back(std::move(outcome));
        }
        const size_t n = slots.size();
        return nb::make_tuple(lend(std::move(slots), {n}), ragged(outcomes));
    }

    // What a snapshot holds beside the shared integers.
    nb::dict save(size_t slot) {
        idle(slot);
        {
            const nb::gil_scoped_release unlocked;
            engine_->settle(slot);
        }
        Slot& s = at(slot);
        const auto [groups, window] = ring();
        nb::dict state;
        if (engine_->half()) {
            std::vector<uint16_t> halves(groups * window * HEAD);
            s.read_halves(halves.data());
            state["kv_half"] = lend(std::move(halves), ring_shape({HEAD}));
        } else {
            std::vector<uint8_t> nibbles(groups * window * 32);
            std::vector<uint16_t> scale_minimum(groups * window * 2);
            s.read_nibbles(nibbles.data(), scale_minimum.data());
            state["kv_nibbles"] = lend(std::move(nibbles), ring_shape({32}));
            state["kv_scale_minimum"] = lend(std::move(scale_minimum), ring_shape({2}));
        }
        state["held_codes"] = lend(std::vector<int16_t>(s.held), {window});
        std::vector<int64_t> rows(REACH * 3, -1);
        std::vector<float> motion(REACH * MOTION, 0);
        for (size_t i = 0; i < s.latest.size(); ++i) {
            rows[3 * i] = s.latest[i].position;
            rows[3 * i + 1] = s.latest[i].cell;
            rows[3 * i + 2] = s.latest[i].time;
            std::memcpy(motion.data() + i * MOTION, s.latest[i].motion, sizeof s.latest[i].motion);
        }
        state["latest_rows"] = lend(std::move(rows), {REACH, 3});
        state["latest_motion"] = lend(std::move(motion), {REACH, MOTION});
        return state;
    }

    // Arrays as `save` returned them; the shared integers must already be the slot's own.
    void load(size_t slot, const nb::dict& state) {
        Slot& s = idle(slot);
        const auto [groups, window] = ring();
        const auto held = get<int16_t>(state, "held_codes", {window});
        const auto rows = get<int64_t>(state, "latest_rows", {REACH, 3});
        const auto motion = get<float>(state, "latest_motion", {REACH, MOTION});
        const Grammar& g = config_.grammar;
        for (size_t i = 0; i < window; ++i)
            expect(held.data()[i] >= -1 && held.data()[i] < g.n_codes, "state['held_codes']: expected codes or -1");
        std::vector<Update> latest;
        for (size_t i = 0; i < REACH && rows.data()[3 * i] >= 0; ++i) {
            const int64_t* r = rows.data() + 3 * i;
            expect(r[0] < *s.position && (latest.empty() || r[0] > latest.back().position) && r[1] >= 0 && r[1] < g.n_cells() &&
                       r[2] >= 0 && r[2] <= *s.time,
                   "state['latest_rows']: expected ascending positions, cells and times of the past");
            Update u{r[0], static_cast<int32_t>(r[1]), r[2], {}};
            std::memcpy(u.motion, motion.data() + i * MOTION, sizeof u.motion);
            latest.push_back(u);
        }
        if (engine_->half()) {
            s.write_halves(get<uint16_t>(state, "kv_half", ring_shape({HEAD})).data());
        } else {
            const auto nibbles = get<uint8_t>(state, "kv_nibbles", ring_shape({32}));
            s.write_nibbles(nibbles.data(), get<uint16_t>(state, "kv_scale_minimum", ring_shape({2})).data());
        }
        s.held.assign(held.data(), held.data() + window);
        s.latest = std::move(latest);
        s.pending.reset();
    }

    size_t bytes(size_t slot) { return at(slot).bytes(); }
    std::string isa() const { return engine_->isa(); }
    size_t threads() const { return engine_->threads(); }
    nb::tuple counts() const {
        const auto counts = engine_->counts();
        return nb::make_tuple(counts.passes, counts.drafted, counts.right);
    }
    void set_drafting(const std::string& drafting) {
        using Drafting = Engine::Drafting;
        expect(drafting == "auto" || drafting == "never" || drafting == "always",
               "drafting: expected auto, never or always, got '" + drafting + "'");
        engine_->set_drafting(drafting == "auto" ? Drafting::AUTO : drafting == "never" ? Drafting::NEVER : Drafting::ALWAYS);
    }

private:
    Slot& at(size_t slot) {
        expect(slot < engine_->size(), "slot: expected 0.." + std::to_string(engine_->size() - 1) + ", got " + std::to_string(slot));
        return engine_->slot(slot);
    }
    // The same, of a slot that is to change or to be copied.
    Slot& idle(size_t slot) {
        Slot& s = at(slot);
        expect(!engine_->busy(slot), "slot " + std::to_string(slot) + ": expected no step under way, got one not yet received");
        return s;
    }
    static std::vector<size_t> numbers(const std::vector<int64_t>& slots) { return {slots.begin(), slots.end()}; }
    static std::vector<int32_t> tokens(const std::vector<int64_t>& actions) {
        std::vector<int32_t> tokens;
        for (int64_t action : actions) tokens.push_back(action < 0 || action > 1 << 20 ? -1 : static_cast<int32_t>(action));
        return tokens;
    }
    std::pair<size_t, size_t> ring() const { return {2 * config_.n_layers * config_.n_kv_heads, config_.window}; }
    std::vector<size_t> ring_shape(const std::vector<size_t>& last) const {
        std::vector<size_t> shape{2, config_.n_layers, config_.n_kv_heads, config_.window};
        shape.insert(shape.end(), last.begin(), last.end());
        return shape;
    }
    template <class T>
    static nb::ndarray<const T, nb::c_contig, nb::device::cpu> get(const nb::dict& state, const char* name,
                                                                   const std::vector<size_t>& shape) {
        nb::ndarray<const T, nb::c_contig, nb::device::cpu> array;
        expect(state.contains(name) && nb::try_cast(state[name], array),
               std::string("state: expected a contiguous array ") + name);
        expect_shape(array, std::string("state['") + name + "']", shape);
        return array;
    }

    const Config config_;
    std::vector<Ints> arrays_;
    std::unique_ptr<Engine> engine_;
};

// Codes to pixels.
class Decoder {
public:
    Decoder(const nb::dict& weights, size_t cell_size, const std::string& isa) : decoder_(read_decoder(weights, cell_size)), ops_(ops_for(isa)) {}
    Array<uint8_t> decode(const nb::ndarray<const int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>& codes) const {
        const size_t n = codes.shape(0), c = decoder_.cell_size;
        expect(codes.shape(1) == 3 && codes.shape(2) == 3, "codes: expected (n, 3, 3)");
        for (size_t i = 0; i < 9 * n; ++i)
            expect(codes.data()[i] >= 0 && static_cast<size_t>(codes.data()[i]) < decoder_.n_codes,
                   "codes: expected 0.." + std::to_string(decoder_.n_codes - 1) + ", got " + std::to_string(codes.data()[i]));
        std::vector<uint8_t> patches(n * decoder_.values());
        decoder_.decode(ops_, codes.data(), n, patches.data());
        return lend(std::move(patches), {n, c, c, 3});
    }

private:
    const CellDecoder decoder_;
    const Ops& ops_;
};

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The native engine; use it through gamegen_env.engine.native.";
    m.def("available_isas", &available_ops, "Instruction sets of this CPU that were built, the best last.");
    m.def("wrong_isas", &wrong_ops, "Those that were built and that this CPU has, but that multiply wrongly: not available.");
    nb::class_<Decoder>(m, "CellDecoder")
        .def(nb::init<const nb::dict&, size_t, const std::string&>(), nb::arg("weights"), nb::arg("cell_size"), nb::arg("isa"))
        .def("decode", &Decoder::decode, nb::arg("codes"));
    nb::class_<NativeEngine>(m, "Engine")
        .def(nb::init<const nb::dict&, const nb::dict&, const nb::dict&, Floats, size_t, float, int, const std::string&,
                      const std::string&, size_t>(),
             nb::arg("config"), nb::arg("weights"), nb::arg("integers"), nb::arg("gumbel_table"), nb::arg("slots"),
             nb::arg("temperature"), nb::arg("kv_bits"), nb::arg("precision"), nb::arg("isa"), nb::arg("threads"))
        .def("clear", &NativeEngine::clear)
        .def("prefill", &NativeEngine::prefill)
        .def("score", &NativeEngine::score)
        .def("step", &NativeEngine::step)
        .def("send", &NativeEngine::send)
        .def("receive", &NativeEngine::receive)
        .def("save", &NativeEngine::save)
        .def("load", &NativeEngine::load)
        .def("bytes", &NativeEngine::bytes)
        .def_prop_ro("isa", &NativeEngine::isa)
        .def_prop_ro("threads", &NativeEngine::threads)
        .def("counts", &NativeEngine::counts)
        .def("set_drafting", &NativeEngine::set_drafting);
}
