// A fork-join thread pool such as an engine has anyway, with the one function that Attune borrows.
#pragma once
#include <attune/attune.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

class Pool {
 public:
  explicit Pool(int workers) {
    for (int w = 1; w < workers; w++) threads_.emplace_back([this, w] { Serve(static_cast<uint32_t>(w)); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    begun_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  // attune_context_options.parallel_for: fn over pieces of [0,n); pieces that run at the same time differ in `worker`.
  static attune_status Run(void* self, int64_t n, int64_t grain, attune_task_fn fn, void* arg) {
    Pool& p = *static_cast<Pool*>(self);
    std::lock_guard<std::mutex> one_region_at_a_time(p.turn_);
    {
      std::lock_guard<std::mutex> lock(p.mutex_);
      p.fn_ = fn, p.arg_ = arg, p.n_ = n, p.grain_ = grain, p.next_ = 0, p.busy_ = p.threads_.size(), p.region_++;
    }
    p.begun_.notify_all();
    p.Work(0);
    std::unique_lock<std::mutex> lock(p.mutex_);
    p.done_.wait(lock, [&p] { return p.busy_ == 0; });
    return ATTUNE_OK;
  }

  int64_t regions() const { return region_; }

 private:
  void Work(uint32_t worker) {
    for (int64_t begin; (begin = next_.fetch_add(grain_)) < n_;)
      fn_(arg_, begin, begin + grain_ < n_ ? begin + grain_ : n_, worker);
  }
  void Serve(uint32_t worker) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (int64_t seen = 0;;) {
      begun_.wait(lock, [&] { return stop_ || region_ != seen; });
      if (stop_) return;
      seen = region_;
      lock.unlock();
      Work(worker);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable begun_, done_;
  attune_task_fn fn_ = nullptr;
  void* arg_ = nullptr;
  int64_t n_ = 0, grain_ = 1, region_ = 0;
  std::atomic<int64_t> next_{0};
  size_t busy_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;  // last: they use everything above
};
