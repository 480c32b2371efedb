// What a product does with its sums, against the plain twin over the sums that the same
// product stores.
//
// Tolerances count roundings, u = 2^-24 each; how exact tanh, exp and sigmoid themselves
// are is the subject of functions_test.cc.
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/engine/kernels/op_test.h"

namespace goldfinch {
namespace {

constexpr std::int64_t kMaxRows = 130;
constexpr Finish kFinishes[] = {Finish::kStore,   Finish::kTanh,  Finish::kReluSquared,
                                Finish::kLerp,    Finish::kDecay, Finish::kAdd,
                                Finish::kGatedAdd};
// May store bf16.
constexpr Finish kNarrow[] = {Finish::kStore, Finish::kTanh, Finish::kReluSquared,
                              Finish::kLerp};

// The products that are finished.
struct Products {
  std::int64_t in = 35, out = 83;
  std::int64_t head = 18;  // inputs of the first of two parts
  Rows starts = Rows::kAnywhere;
  // Of so many rows those of prompts.
  std::int64_t (*prompt_rows)(std::int64_t rows) = [](std::int64_t) {
    return std::int64_t{0};
  };
};

class EpilogueTest : public OpTest {
 protected:
  explicit EpilogueTest(const Products& products = {}) : products_(products) {}

  void SetUp() override {
    OpTest::SetUp();
    if (IsSkipped()) return;
    for (const DType type : {DType::kF32, DType::kBf16}) {
      x_.push_back(std::make_unique<Tensor>(
          backend(), RandomGrid(kMaxRows, in(), 1, type), type, products_.starts));
      w_.push_back(PackWeights(backend(), RandomGrid(out(), in(), 2, type, 0.3), type));
    }
    for (const DType storage : {DType::kI8, DType::kFp8})
      bytes_.push_back(PackWeights(backend(),
                                   RandomGrid(out(), in(), 2, DType::kF32, 0.3),
                                   DType::kBf16, storage));
    with_ = {.bias = RandomGrid(1, out(), 3),
             .a = RandomGrid(kMaxRows, out(), 4),
             .b = RandomGrid(kMaxRows, out(), 5),
             .y = RandomGrid(kMaxRows, out(), 6)};
    bias_ = std::make_unique<DeviceArray<float>>(FlatArray(backend(), with_.bias));
  }

  struct Result {
    Tensor y, a, copy;
  };
  // Rows [begin, begin + rows) of a product whose y is of type `to`.
  Result Run(Finish finish, const Tensor& x, const PackedWeights& w, std::int64_t begin,
             std::int64_t rows, DType to = DType::kF32) {
    Result result{Tensor(backend(), with_.y.Rows(begin, rows), to, products_.starts),
                  Tensor(backend(), with_.a.Rows(begin, rows)),
                  Tensor(backend(), rows, out(), DType::kBf16)};
    const Tensor b(backend(), with_.b.Rows(begin, rows));
    backend().Gemm({x->RowsFrom(begin, rows),
                    &w,
                    *result.y,
                    {.finish = finish,
                     .bias = bias_->data(),
                     .a = *result.a,
                     .b = *b,
                     .copy = finish == Finish::kLerp ? *result.copy : Matrix{}},
                    products_.prompt_rows(rows)});
    EXPECT_TRUE(result.y.SurroundingsAreIntact() && result.a.SurroundingsAreIntact() &&
                result.copy.SurroundingsAreIntact());
    return result;
  }

  // Of y, given the sum and its operands.
  static double Tolerance(Finish finish, double sum, double bias, double a, double b,
                          double y) {
    const double s = std::abs(sum);
    switch (finish) {
      case Finish::kStore:
        return 0.0;
      case Finish::kTanh:
        return 6 * kF32Unit;
      case Finish::kReluSquared:
        return kF32Unit * s * s;
      case Finish::kLerp:
        return 4 * kF32Unit * (std::abs(a) + std::abs(b) * (std::abs(bias) + s));
      case Finish::kDecay:  // the sum with the bias is rounded; |dw/dx| is at most 1/e
        return kF32Unit * (ExpUnits() + 0.37 * (std::abs(bias) + s));
      case Finish::kAdd:
        return kF32Unit * (std::abs(y) + s);
      case Finish::kGatedAdd:
        return kF32Unit * (2 * std::abs(y) + (6 + std::abs(a)) * s);
    }
    return 0.0;
  }

  void ExpectFinish(Finish finish, const Tensor& x, const PackedWeights& w,
                    std::int64_t rows) {
    SCOPED_TRACE(testing::Message()
                 << "finish " << static_cast<int>(finish) << ", rows " << rows);
    const Grid sums = Run(Finish::kStore, x, w, 0, rows).y.Read();
    const reference::FinishOperands with = {.bias = with_.bias,
                                            .a = with_.a.Rows(0, rows),
                                            .b = with_.b.Rows(0, rows),
                                            .y = with_.y.Rows(0, rows)};
    const Grid want = reference::Apply(finish, sums, with);
    Grid tolerance(rows, out());
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < out(); ++j)
        tolerance(i, j) = Tolerance(finish, sums(i, j), with.bias(0, j), with.a(i, j),
                                    with.b(i, j), with.y(i, j));
    const Result got = Run(finish, x, w, 0, rows);
    ExpectClose(got.y.Read(), want, tolerance);
    Grid a = with.a;  // kDecay scales it, and nothing else touches it
    Grid a_tolerance(rows, out());
    if (finish == Finish::kDecay) {
      a = Each([](double k, double decay) { return k * (1 - decay); }, a, want);
      a_tolerance =
          Each([](double k, double t) { return (t + 2 * kF32Unit) * std::abs(k); },
               with.a, tolerance);
    }
    ExpectClose(got.a.Read(), a, a_tolerance);
    if (finish == Finish::kLerp) ExpectIsRounded(got.copy, got.y);
  }

  std::int64_t in() const { return products_.in; }
  std::int64_t out() const { return products_.out; }

  void ExpectAllFinishes() {
    for (const Finish finish : kFinishes) {
      for (std::size_t type = 0; type < 2; ++type)
        for (const std::int64_t rows : {1, 2, 4, 12, 13, 130})
          ExpectFinish(finish, *x_[type], *w_[type], rows);
      for (const auto& w : bytes_)
        for (const std::int64_t rows : {1, 13}) ExpectFinish(finish, *x_[1], *w, rows);
    }
  }
  void ExpectNarrowResults() {
    for (const Finish finish : kNarrow)
      for (const std::int64_t rows : {1, 13, 70})
        ExpectIsRounded(Run(finish, *x_[1], *w_[1], 0, rows, DType::kBf16).y,
                        Run(finish, *x_[1], *w_[1], 0, rows).y);
  }
  void ExpectResumedSums();
  void ExpectRowsAlone();

  const Products products_;
  std::vector<std::unique_ptr<Tensor>> x_;
  std::vector<std::unique_ptr<PackedWeights>> w_;
  std::vector<std::unique_ptr<PackedWeights>> bytes_;  // int8 and fp8
  reference::FinishOperands with_;
  std::unique_ptr<DeviceArray<float>> bias_;
};

GOLDFINCH_ON_ALL_BACKENDS(EpilogueTest);

TEST_P(EpilogueTest, FinishIsItsFormulaOverTheStoredSums) { ExpectAllFinishes(); }

TEST_P(EpilogueTest, Bf16ResultIsTheFloat32OneRounded) { ExpectNarrowResults(); }

TEST_P(EpilogueTest, DecayWithoutAKeyIsTheSameDecay) {
  const Result with_key = Run(Finish::kDecay, *x_[1], *w_[1], 0, 13);
  const Tensor y(backend(), 13, out(), DType::kF32);
  backend().Gemm({x_[1]->operator*().Rows(13),
                  w_[1].get(),
                  *y,
                  {.finish = Finish::kDecay, .bias = bias_->data()}});
  EXPECT_EQ(y.Bits(), with_key.y.Bits());
}

// Inputs in two parts, the first an even number of them, are one product: on the CPU bit
// for bit.
void EpilogueTest::ExpectResumedSums() {
  for (std::size_t type = 0; type < 2; ++type) {
    const DType dtype = type == 0 ? DType::kF32 : DType::kBf16;
    const Grid weights = RandomGrid(out(), in(), 2, dtype, 0.3);
    const std::int64_t first = products_.head;
    Grid head(out(), first), tail(out(), in() - first);
    for (std::int64_t i = 0; i < out(); ++i)
      for (std::int64_t j = 0; j < in(); ++j)
        (j < first ? head(i, j) : tail(i, j - first)) = weights(i, j);
    const auto w_head = PackWeights(backend(), head, dtype);
    const auto w_tail = PackWeights(backend(), tail, dtype);
    for (const std::int64_t rows : {1, 3, 12, 40}) {
      const Tensor whole(backend(), rows, out(), DType::kF32, products_.starts);
      const Tensor parts(backend(), rows, out(), DType::kF32, products_.starts);
      const std::int64_t prompts = products_.prompt_rows(rows);
      const Matrix x = (**x_[type]).Rows(rows);
      backend().Gemm({x, w_[type].get(), *whole, {}, prompts});
      backend().Gemm({x.Cols(0, first), w_head.get(), *parts, {}, prompts});
      backend().Gemm(
          {x.Cols(first, in() - first), w_tail.get(), *parts, {.resume = true}, prompts});
      if (GetParam().device == Device::kCpu) {
        EXPECT_EQ(parts.Bits(), whole.Bits());
      }
      const double unit = 2 * static_cast<double>(in() + 1) * kF32Unit;
      const Grid sizes =
          reference::Gemm(reference::Abs(x_[type]->Read()), reference::Abs(weights));
      Grid tolerance(rows, out());
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < out(); ++j) tolerance(i, j) = unit * sizes(i, j);
      ExpectClose(parts.Read(), whole.Read(), tolerance);
      EXPECT_TRUE(parts.SurroundingsAreIntact());
    }
  }
}

void EpilogueTest::ExpectRowsAlone() {
  for (const Finish finish : kFinishes) {
    for (std::size_t type = 0; type < 2; ++type) {
      ExpectRowsStandAlone(kMaxRows, [&](std::int64_t begin, std::int64_t count) {
        Result result = Run(finish, *x_[type], *w_[type], begin, count);
        std::vector<RowBits> bits = result.y.Bits();
        const std::vector<RowBits> a = result.a.Bits();
        for (std::size_t i = 0; i < bits.size(); ++i) bits[i] += a[i];
        return bits;
      });
    }
    for (const auto& w : bytes_)
      ExpectRowsStandAlone(kMaxRows, [&](std::int64_t begin, std::int64_t count) {
        return Run(finish, *x_[1], *w, begin, count).y.Bits();
      });
  }
}

TEST_P(EpilogueTest, ResumedSumsAreThoseOfOneProduct) { ExpectResumedSums(); }

TEST_P(EpilogueTest, RowsStandAlone) { ExpectRowsAlone(); }

// Rows of prompts, of a shape that a library may have instead of our kernels, behind
// others.
class PromptEpilogueTest : public EpilogueTest {
 protected:
  PromptEpilogueTest()
      : EpilogueTest({.in = 160,
                      .out = 136,
                      .head = 96,
                      .starts = Rows::kAligned,
                      .prompt_rows = [](std::int64_t rows) { return rows - rows / 4; }}) {
  }
};
GOLDFINCH_ON_ALL_BACKENDS(PromptEpilogueTest);

TEST_P(PromptEpilogueTest, FinishIsItsFormulaOverTheStoredSums) { ExpectAllFinishes(); }
TEST_P(PromptEpilogueTest, Bf16ResultIsTheFloat32OneRounded) { ExpectNarrowResults(); }
TEST_P(PromptEpilogueTest, ResumedSumsAreThoseOfOneProduct) { ExpectResumedSums(); }

// Inputs so many that a device may add parts of a sum in kernels of their own.
class LongEpilogueTest : public EpilogueTest {
 protected:
  LongEpilogueTest() : EpilogueTest({.in = 587, .out = 139, .head = 530}) {}
};
GOLDFINCH_ON_ALL_BACKENDS(LongEpilogueTest);

TEST_P(LongEpilogueTest, FinishIsItsFormulaOverTheStoredSums) { ExpectAllFinishes(); }
TEST_P(LongEpilogueTest, Bf16ResultIsTheFloat32OneRounded) { ExpectNarrowResults(); }
TEST_P(LongEpilogueTest, ResumedSumsAreThoseOfOneProduct) { ExpectResumedSums(); }

class PromptOnlyEpilogueTest : public EpilogueTest {
 protected:
  PromptOnlyEpilogueTest()
      : EpilogueTest({.in = 72,
                      .out = 72,
                      .head = 8,
                      .starts = Rows::kAligned,
                      .prompt_rows = [](std::int64_t rows) { return rows; }}) {}
};
GOLDFINCH_ON_ALL_BACKENDS(PromptOnlyEpilogueTest);

TEST_P(PromptOnlyEpilogueTest, RowsStandAlone) { ExpectRowsAlone(); }

}  // namespace
}  // namespace goldfinch
