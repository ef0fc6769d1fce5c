// Fetching ahead of the arithmetic.
#ifndef ATTUNE_KIT_AHEAD_H_
#define ATTUNE_KIT_AHEAD_H_
#include <stddef.h>

namespace attune_kit {

// Rows that will be needed soon, fetched into the second-level cache a few lines at a time between the tiles of a
// product: read all at once, they would leave the arithmetic idle. They are spread evenly over as many tiles as there
// were for the rows before them, because a burst holds up the loads of the product itself.
class Ahead {
 public:
  void Clear() {
    if (calls_ > 0) expected_calls_ = calls_;
    calls_ = lines_ = count_ = at_ = row_ = byte_ = 0;
  }
  // `rows` rows of `bytes` bytes, `step` bytes apart. At most kRanges ranges. One line of each page is fetched at once:
  // the CPU then looks up the addresses of several pages side by side, and no later fetch waits for that.
  void Add(const void* first, ptrdiff_t step, size_t rows, size_t bytes) {
    if (!first || rows == 0 || bytes == 0 || count_ == kRanges) return;
    if (step == ptrdiff_t(bytes)) bytes *= rows, rows = 1;
    const char* at = static_cast<const char*>(first);
    ranges_[count_++] = {at, step, rows, bytes};
    lines_ += rows * ((bytes + 63) / 64);
    for (size_t byte = 0; rows == 1 && byte < bytes; byte += kPage) __builtin_prefetch(at + byte, 0, 2);
  }
  void Fetch() {
    calls_++;
    if (at_ == count_) return;  // before a division
    for (size_t left = (lines_ + expected_calls_ - 1) / expected_calls_; left > 0 && at_ < count_;) {
      const Range& r = ranges_[at_];
      const char* from = r.first + ptrdiff_t(row_) * r.step + byte_;
      const size_t lines = (r.bytes - byte_ + 63) / 64, n = lines < left ? lines : left;
      for (size_t i = 0; i < n; i++) __builtin_prefetch(from + 64 * i, 0, 2);
      left -= n, byte_ += 64 * n;
      if (n < lines) return;
      byte_ = 0;
      if (++row_ == r.rows) row_ = 0, at_++;
    }
  }

 private:
  static constexpr size_t kRanges = 4, kPage = 4096;
  struct Range {
    const char* first;
    ptrdiff_t step;
    size_t rows, bytes;
  };
  Range ranges_[kRanges];
  size_t calls_ = 0, expected_calls_ = 16;          // of Fetch, since Clear
  size_t lines_ = 0;                                // of all ranges
  size_t count_ = 0, at_ = 0, row_ = 0, byte_ = 0;  // ranges, and where the next line is
};

}  // namespace attune_kit
#endif  // ATTUNE_KIT_AHEAD_H_
