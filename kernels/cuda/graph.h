// Launches that are recorded once and then run as a whole, with loops that the device turns itself: CUDA graphs.
//
// The emulation keeps the same launches in lists, and its host stands in for the device's loop in one place,
// Graph::record_while: it looks at the condition that kernels set, before every turn, as a conditional node does.
#pragma once
#include <memory>

#include "device.h"

namespace gamegen::cuda {

class Graph {
public:
#if defined(__CUDACC__)
    explicit Graph(const Stream& stream) : stream_(stream) { CHECK_CUDA(cudaGraphCreate(&graph_, 0)); }
    ~Graph() {
        if (exec_) cudaGraphExecDestroy(exec_);
        cudaGraphDestroy(graph_);
    }
#else
    explicit Graph(const Stream&) {}
#endif
    Graph(const Graph&) = delete;

    // Append what `launches` launches.
    template <class Fn> void record(Fn launches) {
#if defined(__CUDACC__)
        last_ = capture(graph_, last_, launches);
#else
        simt::Recording* const outer = std::exchange(simt::recording(), &nodes_);
        launches();
        simt::recording() = outer;
#endif
    }
    // What a loop of this graph goes by; true when the graph begins.
    Condition condition() {
#if defined(__CUDACC__)
        Condition condition = 0;
#if CUDART_VERSION >= 12040
        CHECK_CUDA(cudaGraphConditionalHandleCreate(&condition, graph_, 1, cudaGraphCondAssignDefault));
#endif
        return condition;
#else
        conditions_.push_back(std::make_unique<unsigned>());
        return conditions_.back().get();
#endif
    }
    // Append a loop: what `body` launches, while the condition is true.
    template <class Fn> void record_while(Condition condition, Fn body) {
#if !defined(__CUDACC__)
        simt::Recording turn;
        simt::Recording* const outer = std::exchange(simt::recording(), &turn);
        body();
        simt::recording() = outer;
        nodes_.push_back([condition, turn] {
            while (*condition)
                for (const auto& launch : turn) launch();
        });
#elif CUDART_VERSION >= 12040
        cudaGraphNodeParams loop = {};
        loop.type = cudaGraphNodeTypeConditional;
        loop.conditional.handle = condition;
        loop.conditional.type = cudaGraphCondTypeWhile;
        loop.conditional.size = 1;
        cudaGraphNode_t node = nullptr;
#if CUDART_VERSION >= 13000
        CHECK_CUDA(cudaGraphAddNode(&node, graph_, last_.data(), nullptr, last_.size(), &loop));
#else
        CHECK_CUDA(cudaGraphAddNode(&node, graph_, last_.data(), last_.size(), &loop));
#endif
        capture(loop.conditional.phGraph_out[0], {}, body);
        last_ = {node};
#endif
    }
    void launch() {
#if defined(__CUDACC__)
        if (!exec_) CHECK_CUDA(cudaGraphInstantiate(&exec_, graph_, 0));
        CHECK_CUDA(cudaGraphLaunch(exec_, stream_));
#else
        for (const auto& condition : conditions_) *condition = 1;
        for (const auto& node : nodes_) node();
#endif
    }

private:
#if defined(__CUDACC__)
    // Into `graph`, behind the nodes `after`. Returns the nodes that whatever follows has to wait for.
    template <class Fn> std::vector<cudaGraphNode_t> capture(cudaGraph_t graph, const std::vector<cudaGraphNode_t>& after, Fn launches) {
        cudaGraph_t captured = nullptr;
#if CUDART_VERSION >= 12040
        CHECK_CUDA(cudaStreamBeginCaptureToGraph(stream_, graph, after.data(), nullptr, after.size(), cudaStreamCaptureModeRelaxed));
        launches();
        cudaStreamCaptureStatus status;
        const cudaGraphNode_t* nodes = nullptr;
        size_t n = 0;
#if CUDART_VERSION >= 13000
        CHECK_CUDA(cudaStreamGetCaptureInfo(stream_, &status, nullptr, nullptr, &nodes, nullptr, &n));
#else
        CHECK_CUDA(cudaStreamGetCaptureInfo_v2(stream_, &status, nullptr, nullptr, &nodes, &n));
#endif
        const std::vector<cudaGraphNode_t> last(nodes, nodes + n);
        CHECK_CUDA(cudaStreamEndCapture(stream_, &captured));
#else
        CHECK_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
        launches();
        CHECK_CUDA(cudaStreamEndCapture(stream_, &captured));
        std::vector<cudaGraphNode_t> last(1);
        CHECK_CUDA(cudaGraphAddChildGraphNode(last.data(), graph, after.data(), after.size(), captured));
        CHECK_CUDA(cudaGraphDestroy(captured));
#endif
        CHECK_CUDA(cudaGetLastError());
        return last;
    }
    const Stream& stream_;
    cudaGraph_t graph_ = nullptr;
    cudaGraphExec_t exec_ = nullptr;
    std::vector<cudaGraphNode_t> last_;
#else
    simt::Recording nodes_;
    std::vector<std::unique_ptr<unsigned>> conditions_;
#endif
};

// Can graphs loop by themselves here? Driver and toolkit must know conditional nodes (12.4).
inline bool device_loops() {
#if !defined(__CUDACC__)
    return true;
#elif CUDART_VERSION >= 12040
    int driver = 0;
    CHECK_CUDA(cudaDriverGetVersion(&driver));
    return driver >= 12040;
#else
    return false;
#endif
}

// begin(condition), then turn(condition) as long as either of them wants more, then end(): one graph where the device
// loops. Elsewhere the host does, TURNS turns to a graph, of which those after the last one find nothing to do.
class Loop {
public:
    static constexpr int TURNS = 8;

    // more: host memory that the kernels which set the condition set too.
    template <class Begin, class Turn, class End>
    Loop(const Stream& stream, bool device_loops, const volatile int* more, Begin begin, Turn turn, End end)
        : stream_(stream), device_loops_(device_loops), more_(more), first_(stream), again_(stream), last_(stream) {
        if (device_loops) {
            const Condition condition = first_.condition();
            first_.record([&] { begin(condition); });
            first_.record_while(condition, [&] { turn(condition); });
            first_.record(end);
            return;
        }
        const auto turns = [&] {
            for (int i = 0; i < TURNS; ++i) turn(Condition{});
        };
        first_.record([&] { begin(Condition{}); });
        first_.record(turns);
        again_.record(turns);
        last_.record(end);
    }
    // Returns when all is done.
    void run() {
        first_.launch();
        if (!device_loops_) {
            for (stream_.wait(); *more_; stream_.wait()) again_.launch();
            last_.launch();
        }
        stream_.wait();
    }

private:
    const Stream& stream_;
    const bool device_loops_;
    const volatile int* more_;
    Graph first_, again_, last_;
};

}  // namespace gamegen::cuda
