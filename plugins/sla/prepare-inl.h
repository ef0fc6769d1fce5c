// What both entries make ready once per (batch, kv head), in phases: copies of keys and values, block means, sums for
// the linear branch; then the total of these sums and the block map. Tasks write disjoint memory and depend on sizes
// and knobs alone.
#if defined(ATTUNE_SLA_PREPARE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTUNE_SLA_PREPARE_INL_H_
#undef ATTUNE_SLA_PREPARE_INL_H_
#else
#define ATTUNE_SLA_PREPARE_INL_H_
#endif
#include "sla/block_map-inl.h"
#include "sla/unit_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sla {
namespace HWY_NAMESPACE {
#if ATTUNE_ISA

inline int64_t Pieces(int64_t n, int64_t size) {
  return n / size + (n % size != 0);
}

constexpr int64_t kPackRows = 128;        // rows that a task copies; a multiple of every kPanel
constexpr int64_t kSumRows = 64;          // rows that are mapped at a time
constexpr int64_t kUnitRows = 512;        // keys of a unit of sums when all keys are in scope
constexpr int64_t kRoundQueries = 16384;  // queries of a head whose keys are kept ready at a time: enough to share

// kv heads that are treated at a time, so that memory does not grow with their number.
inline int64_t HeadsPerRound(const Problem& c) {
  const int64_t heads = c.B * c.Hkv, n = Pieces(kRoundQueries, 1 + c.Nq);
  return n < heads ? n : heads;
}

// Hands out pieces of memory as offsets in floats, each at a multiple of 64 bytes.
class Offsets {
 public:
  size_t Take(size_t floats) {
    const size_t at = end_;
    end_ += (floats + 15) / 16 * 16;
    return at;
  }
  size_t End() const { return end_; }

 private:
  size_t end_ = 0;
};

// Copies that an entry wants besides the panels of keys.
struct Copies {
  bool values;                  // rows of values: forward
  bool key_rows, value_panels;  // backward
  bool sums;                    // is there a linear branch?
};

// Memory of one (batch, kv head). Panel p holds keys p * kPanel ..., its row e their component e; rows are ld_q or ld_o
// floats apart. What an entry does not want is of no size.
struct HeadMemory {
  float *k_panels, *v_panels, *k_rows, *v_rows;
  double* k_means;  // [Nb x MeanStride(D)]
  UnitSums sums;
  int32_t *critical, *negligible;  // lists of the query blocks of the group
};

class Preparation {
 public:
  Preparation(const Problem& c, const Copies& copies, Offsets* offsets)
      : c_(c), copies_(copies), ld_q_(PadTo32(c.D)), ld_o_(PadTo32(c.Dv)) {
    const size_t n = size_t(Pieces(c.Nk, kPackRows) * kPackRows), blocks = size_t(c.Group() * c.Mb);
    units_ = !copies.sums ? 0 : c.scope == kAll ? Pieces(c.Nk, kUnitRows) : c.Nb;
    const size_t floats = UnitSums::Floats(size_t(c.D), size_t(c.Dv));
    k_panels_ = offsets->Take(n * size_t(c.D));
    v_panels_ = offsets->Take(copies.value_panels ? n * size_t(c.Dv) : 0);
    k_rows_ = offsets->Take(copies.key_rows ? n * ld_q_ : 0);
    v_rows_ = offsets->Take(copies.values ? n * ld_o_ : 0);
    k_means_ = offsets->Take(2 * size_t(c.Nb) * MeanStride(c.D));
    sums_ = offsets->Take(size_t(units_) * floats), total_ = offsets->Take(copies.sums ? floats : 0);
    flags_ = offsets->Take(copies.sums ? size_t(UnitSums::Strips(size_t(c.D))) : 0);
    critical_ = offsets->Take(blocks * size_t(c.n_critical));
    negligible_ = offsets->Take(blocks * size_t(c.n_negligible));
  }

  // Floats of scratch that a worker needs for any of the tasks.
  size_t ScratchFloats() const {
    const size_t choice = 2 * (MeanStride(c_.D) + size_t(c_.Nb)) + PadTo32(c_.Nb);
    return size_t(kSumRows) * (ld_q_ + ld_o_) + (choice + 15) / 16 * 16;
  }

  HeadMemory At(float* m) const {
    const UnitSums sums = {size_t(c_.D), size_t(c_.Dv), units_, m + sums_, m + total_, m + flags_};
    return {m + k_panels_,
            m + v_panels_,
            m + k_rows_,
            m + v_rows_,
            reinterpret_cast<double*>(m + k_means_),
            sums,
            reinterpret_cast<int32_t*>(m + critical_),
            reinterpret_cast<int32_t*>(m + negligible_)};
  }

  // ---- first phase
  int64_t CopyTasks() const { return Pieces(c_.Nk, kPackRows) + c_.Nb + units_; }
  void Copy(const HeadMemory& m, int64_t b, int64_t head, int64_t task, float* scratch) const {
    const int64_t packs = Pieces(c_.Nk, kPackRows);
    if (task < packs) return Pack(m, b, head, task * kPackRows, scratch);
    if (task < packs + units_) return Sum(m, b, head, task - packs, scratch);
    const int64_t j = task - packs - units_;
    BlockMean(c_.k, b, head, c_.Keys(j), c_.D, scratch, m.k_means + size_t(j) * MeanStride(c_.D));
  }

  // ---- second phase
  int64_t ChooseTasks() const { return c_.Group() * c_.Mb + (copies_.sums ? UnitSums::Strips(size_t(c_.D)) : 0); }
  // Query block n % Mb of head n / Mb of the group, or a strip of the total.
  void Choose(const HeadMemory& m, int64_t b, int64_t head, int64_t task, float* scratch) const {
    const int64_t blocks = c_.Group() * c_.Mb;
    if (task >= blocks) return TotalStrip(m.sums, task - blocks);
    const int64_t h = head * c_.Group() + task / c_.Mb, i = task % c_.Mb;
    double *mean = reinterpret_cast<double*>(scratch + ld_q_), *score = mean + MeanStride(c_.D);
    BlockMean(c_.q, b, h, c_.Queries(i), c_.D, scratch, mean);
    BlockScores(mean, m.k_means, c_.Nb, c_.D, score);
    ChooseBlocks(c_, score, m.critical + task * c_.n_critical, m.negligible + task * c_.n_negligible,
                 reinterpret_cast<int32_t*>(score + c_.Nb));
    if (c_.block_map) StoreBlockMap(c_, ChosenOf(m, task), b, h, i);
  }

  // Of query block n % Mb of head n / Mb of the group.
  Chosen ChosenOf(const HeadMemory& m, int64_t n) const {
    return {m.critical + n * c_.n_critical, m.negligible + n * c_.n_negligible, c_.n_critical, c_.n_negligible};
  }

 private:
  // Keys (and values) [first, first + kPackRows).
  HWY_NOINLINE void Pack(const HeadMemory& m, int64_t b, int64_t head, int64_t first, float* rows) const {
    const int64_t n = c_.Nk - first < kPackRows ? c_.Nk - first : kPackRows;
    PackPanels(c_.k, b, head, first, n, size_t(c_.D), ld_q_, rows, m.k_panels);
    if (copies_.value_panels) PackPanels(c_.v, b, head, first, n, size_t(c_.Dv), ld_o_, rows, m.v_panels);
    if (copies_.key_rows) {
      LoadRows(c_.k, b, head, first, n, size_t(c_.D), 1, m.k_rows + size_t(first) * ld_q_, ld_q_);
    }
    if (copies_.values) LoadRows(c_.v, b, head, first, n, size_t(c_.Dv), 1, m.v_rows + size_t(first) * ld_o_, ld_o_);
  }

  static void PackPanels(const View& t, int64_t b, int64_t head, int64_t first, int64_t n, size_t width, size_t ld,
                         float* rows, float* panels) {
    for (int64_t j = first; j < first + n; j += kPanel) {
      const float* pointers[kPanel];
      for (size_t r = 0; r < kPanel; r++) {
        float* row = rows + r * ld;
        pointers[r] = row;
        if (j + int64_t(r) >= first + n) {
          memset(row, 0, sizeof(float) * ld);
          continue;
        }
        WithRow(t, t.Offset(b, head, j + int64_t(r)), [&](const auto* p) {
          using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
          if constexpr (std::is_same_v<T, float>) {
            pointers[r] = p;
          } else {
            kit::Widen(p, width, 1.0f, row);
          }
        });
      }
      kit::TransposeToPanel(pointers, width, panels + size_t(j) * width);
    }
  }

  Range UnitKeys(int64_t u) const { return c_.scope == kAll ? Block(u, kUnitRows, c_.Nk) : c_.Keys(u); }

  void Sum(const HeadMemory& m, int64_t b, int64_t head, int64_t unit, float* scratch) const {
    const Range keys = UnitKeys(unit);
    float *mapped = scratch, *values = scratch + size_t(kSumRows) * ld_q_, *sum = m.sums.Unit(unit);
    memset(sum, 0, sizeof(float) * m.sums.Floats());
    for (int64_t j = keys.begin; j < keys.end; j += kSumRows) {
      const int64_t n = keys.end - j < kSumRows ? keys.end - j : kSumRows;
      LoadRows(c_.k, b, head, j, n, size_t(c_.D), 1, mapped, ld_q_);
      for (int64_t r = 0; r < n; r++) {
        MapRow(c_.map, mapped + size_t(r) * ld_q_, size_t(c_.D), mapped + size_t(r) * ld_q_);
      }
      LoadRows(c_.v, b, head, j, n, size_t(c_.Dv), 1, values, ld_o_);
      AddRows(m.sums, size_t(n), mapped, ld_q_, values, ld_o_, nullptr, sum);
    }
  }

  const Problem& c_;
  const Copies copies_;
  size_t ld_q_, ld_o_;
  int64_t units_;
  size_t k_panels_, v_panels_, k_rows_, v_rows_, k_means_, sums_, total_, flags_, critical_, negligible_;
};

#endif  // ATTUNE_ISA
}  // namespace HWY_NAMESPACE
}  // namespace sla
HWY_AFTER_NAMESPACE();
#endif  // toggled include guard
