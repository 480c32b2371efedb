// All weights of a model on a backend, in the groups and under the names of the paper.
//
// Vectors are float32; matrices are packed in the compute type, the large ones in a byte
// an element if StorageType says so. A low-rank pair (`*_w1`, `*_w2`, stored [in, out])
// is applied as up(f(down(x))).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"

namespace goldfinch {

using Linear = std::unique_ptr<PackedWeights>;

struct LowRank {
  Linear down;  // [width, in]
  Linear up;    // [out, width]
};

// x060: order w, k, v, r, g. x060c2: order r, k, v, w, v2.
struct FinchWeights {
  const float* maa_x = nullptr;
  const float* maa[5] = {};
  Linear mix_down;   // [5 * width, D]
  Linear mix_up[5];  // each [D, width]
  Linear receptance, key, value, output;
  Linear gate;  // x060 only
  const float* time_decay = nullptr;
  LowRank decay;
  LowRank value2;                // x060c2 with use_v2 only
  const float* bonus = nullptr;  // u; null with use_v2
  NormWeights ln_x;
};

struct GoldWeights {
  const float* maa_x = nullptr;
  const float* maa_q = nullptr;
  LowRank mix_q;
  Linear query, output;
  NormWeights ln_q, ln_x;
  // Of keys and values, which depend on the cache alone.
  const float* maa_v_cache = nullptr;
  const float* maa_k = nullptr;
  const float* maa_v = nullptr;
  Linear kv_down;   // [2 * width, D], order k, v
  Linear kv_up[2];  // each [D, width]
  LowRank key, value;
  NormWeights ln_k, ln_v;
};

struct ChannelMixWeights {
  const float* maa_k = nullptr;
  const float* maa_r = nullptr;
  Linear key, receptance, value;
};

struct LayerWeights {
  NormWeights ln1, ln2;
  std::optional<FinchWeights> finch;  // one of the two
  std::optional<GoldWeights> gold;
  ChannelMixWeights ffn;
};

struct ModelWeights {
  Matrix embedding;  // [V, D]
  NormWeights ln0, ln_out;
  std::vector<LayerWeights> layers;
  Linear compress;  // w_kv_cache_a [D/R, D]; with GOLD layers only
  // w_kv_cache_b [D, D + D/R] in two: of the embedding and of the compressed key.
  Linear decompress_embedding, decompress_key;
  Linear head;                                        // [V, D]
  std::vector<std::unique_ptr<DeviceMemory>> memory;  // of the vectors and the embedding
  std::int64_t bytes = 0;                             // of device memory, all together

  // `storage` is `type`, kI8 or kFp8 and goes for the large matrices; low-rank pairs,
  // the cache's compression and the embedding stay in `type`.
  static ModelWeights Load(const Checkpoint& checkpoint, DType type, DType storage,
                           Backend& backend);
};

}  // namespace goldfinch
