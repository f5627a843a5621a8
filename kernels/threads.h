// A pool of threads that sleep when there is nothing to do, and survive a fork of the process.
#pragma once
#include <unistd.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gamegen {

class Threads {
public:
    explicit Threads(size_t count) : count_(count) {}
    ~Threads() { stop(); }
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;
    size_t count() const { return count_; }

    // Call job(0) .. job(n - 1), n <= count, the first on the calling thread. Rethrows what a job threw.
    void run(size_t n, const std::function<void(size_t)>& job) {
        if (n > 1) start();
        if (n > 1) {
            const std::lock_guard lock(pool_->mutex);
            pool_->job = &job;
            pool_->wanted = pool_->left = n - 1;
            pool_->error = nullptr;
            ++pool_->round;
            pool_->wake.notify_all();
        }
        std::exception_ptr error;
        try {
            job(0);
        } catch (...) {
            error = std::current_exception();
        }
        if (n > 1) {
            std::unique_lock lock(pool_->mutex);
            pool_->done.wait(lock, [&] { return pool_->left == 0; });
            if (!error) error = pool_->error;
        }
        if (error) std::rethrow_exception(error);
    }

private:
    struct Pool {
        std::mutex mutex;
        std::condition_variable wake, done;
        const std::function<void(size_t)>* job = nullptr;
        size_t wanted = 0, left = 0, round = 0;
        bool ending = false;
        std::exception_ptr error;
        std::vector<std::thread> threads;
        pid_t owner = getpid();
    };

    void start() {
        if (pool_ && pool_->owner == getpid()) return;
        (void)pool_.release();  // after a fork its threads are the parent's: neither joined nor freed here
        pool_ = std::make_unique<Pool>();
        for (size_t i = 1; i < count_; ++i) pool_->threads.emplace_back([pool = pool_.get(), i] { serve(*pool, i); });
    }
    void stop() {
        if (!pool_) return;
        if (pool_->owner != getpid()) {
            (void)pool_.release();
            return;
        }
        {
            const std::lock_guard lock(pool_->mutex);
            pool_->ending = true;
        }
        pool_->wake.notify_all();
        for (auto& thread : pool_->threads) thread.join();
    }
    static void serve(Pool& pool, size_t index) {
        size_t seen = 0;
        std::unique_lock lock(pool.mutex);
        for (;;) {
            pool.wake.wait(lock, [&] { return pool.ending || pool.round != seen; });
            if (pool.ending) return;
            seen = pool.round;
            if (index > pool.wanted) continue;
            const auto& job = *pool.job;
            lock.unlock();
            std::exception_ptr error;
            try {
                job(index);
            } catch (...) {
                error = std::current_exception();
            }
            lock.lock();
            if (error && !pool.error) pool.error = error;
            if (--pool.left == 0) pool.done.notify_one();
        }
    }

    const size_t count_;
    std::unique_ptr<Pool> pool_;
};

}  // namespace gamegen
