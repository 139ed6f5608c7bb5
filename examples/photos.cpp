// A contact sheet of photographs: each is read, made smaller, and passed through some filters, all of it tasks that
// pass images on to each other; an actor counts the pixels.
//   photos -o sheet.png PHOTO.jpg…
// The sheet has a row for each photograph, and the same bytes on any number of ranks.
#include <png.h>

#include <cstdio>
// Needs what the line above declares.
#include <jpeglib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <boost/serialization/vector.hpp>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mobula/mobula.hpp>
#include <stdexcept>

namespace {

struct Image {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::vector<std::uint8_t> rgb;  // rows from the top

  Image() = default;
  Image(std::uint32_t w, std::uint32_t h) : width(w), height(h), rgb(std::size_t{3} * w * h) {}
  std::uint8_t* at(std::uint32_t x, std::uint32_t y) { return &rgb[3 * (std::size_t{y} * width + x)]; }
  const std::uint8_t* at(std::uint32_t x, std::uint32_t y) const { return &rgb[3 * (std::size_t{y} * width + x)]; }

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& width& height& rgb;
  }
};

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File open_file(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode), &std::fclose);
  if (!file) throw std::runtime_error("can't open " + path);
  return file;
}

Image read_photo(const std::string& path) {
  const File file = open_file(path, "rb");
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  errors.error_exit = [](j_common_ptr common) {
    std::array<char, JMSG_LENGTH_MAX> text{};
    common->err->format_message(common, text.data());
    throw std::runtime_error(text.data());
  };
  jpeg_create_decompress(&jpeg);
  const std::unique_ptr<jpeg_decompress_struct, void (*)(j_decompress_ptr)> end(&jpeg, &jpeg_destroy_decompress);
  try {
    jpeg_stdio_src(&jpeg, file.get());
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    Image image(jpeg.output_width, jpeg.output_height);
    while (jpeg.output_scanline < jpeg.output_height) {
      JSAMPROW row = image.at(0, jpeg.output_scanline);
      jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
    return image;
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(path + " is no photograph that can be read: " + e.what());
  }
}

// Cut to the shape of the result, and averaged.
Image shrink(const Image& image, std::uint32_t width, std::uint32_t height) {
  const double scale = std::min(double(image.width) / width, double(image.height) / height);
  const double left = (image.width - scale * width) / 2;
  const double top = (image.height - scale * height) / 2;
  Image small(width, height);
  for (std::uint32_t y = 0; y < height; ++y) {
    const auto y0 = static_cast<std::uint32_t>(top + scale * y);
    const auto y1 = std::clamp(static_cast<std::uint32_t>(top + scale * (y + 1)), y0 + 1, image.height);
    for (std::uint32_t x = 0; x < width; ++x) {
      const auto x0 = static_cast<std::uint32_t>(left + scale * x);
      const auto x1 = std::clamp(static_cast<std::uint32_t>(left + scale * (x + 1)), x0 + 1, image.width);
      std::array<std::uint64_t, 3> sum{};
      for (std::uint32_t v = y0; v < y1; ++v) {
        for (std::uint32_t u = x0; u < x1; ++u) {
          for (std::size_t c = 0; c < 3; ++c) sum[c] += image.at(u, v)[c];
        }
      }
      for (std::size_t c = 0; c < 3; ++c) {
        small.at(x, y)[c] = static_cast<std::uint8_t>(sum[c] / (std::uint64_t{x1 - x0} * (y1 - y0)));
      }
    }
  }
  return small;
}

std::uint8_t clamped(double value) { return static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0)); }
double grey(const std::uint8_t* pixel) { return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]; }

// The mean of the (2r + 1)² pixels around each.
Image blur(const Image& image) {
  constexpr int kRadius = 4;
  const int w = static_cast<int>(image.width);
  const int h = static_cast<int>(image.height);
  Image rows(image.width, image.height);
  Image both(image.width, image.height);
  const auto mean = [](Image& to, const Image& from, int x, int y, int dx, int dy, int most_x, int most_y) {
    for (std::size_t c = 0; c < 3; ++c) {
      int sum = 0;
      for (int i = -kRadius; i <= kRadius; ++i) {
        const auto u = static_cast<std::uint32_t>(std::clamp(x + i * dx, 0, most_x));
        const auto v = static_cast<std::uint32_t>(std::clamp(y + i * dy, 0, most_y));
        sum += from.at(u, v)[c];
      }
      to.at(static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y))[c] =
          static_cast<std::uint8_t>(sum / (2 * kRadius + 1));
    }
  };
  for (int y = 0; y < h; ++y) {
    for (int x = 0; x < w; ++x) mean(rows, image, x, y, 1, 0, w - 1, h - 1);
  }
  for (int y = 0; y < h; ++y) {
    for (int x = 0; x < w; ++x) mean(both, rows, x, y, 0, 1, w - 1, h - 1);
  }
  return both;
}

// Sobel's operator.
Image edges(const Image& image) {
  Image result(image.width, image.height);
  for (std::uint32_t y = 1; y + 1 < image.height; ++y) {
    for (std::uint32_t x = 1; x + 1 < image.width; ++x) {
      const auto at = [&](int dx, int dy) {
        return grey(image.at(static_cast<std::uint32_t>(static_cast<int>(x) + dx),
                             static_cast<std::uint32_t>(static_cast<int>(y) + dy)));
      };
      const double gx = at(1, -1) + 2 * at(1, 0) + at(1, 1) - at(-1, -1) - 2 * at(-1, 0) - at(-1, 1);
      const double gy = at(-1, 1) + 2 * at(0, 1) + at(1, 1) - at(-1, -1) - 2 * at(0, -1) - at(1, -1);
      std::fill_n(result.at(x, y), 3, clamped(std::hypot(gx, gy)));
    }
  }
  return result;
}

Image sepia(const Image& image) {
  Image result(image.width, image.height);
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
    const double g = grey(&image.rgb[i]);
    result.rgb[i] = clamped(1.07 * g + 15);
    result.rgb[i + 1] = clamped(0.95 * g + 5);
    result.rgb[i + 2] = clamped(0.74 * g);
  }
  return result;
}

// Beside each other, or one above the other, with a margin.
Image join(const std::vector<mobula::Ref<Image>>& parts, bool across) {
  constexpr std::uint32_t kMargin = 8;
  std::vector<Image> images;
  std::uint32_t width = kMargin;
  std::uint32_t height = kMargin;
  for (const auto& part : parts) {
    const Image& image = images.emplace_back(mobula::get(part));
    width = across ? width + image.width + kMargin : std::max(width, image.width);
    height = across ? std::max(height, image.height + kMargin) : height + image.height;
  }
  Image result(width, height);
  std::fill(result.rgb.begin(), result.rgb.end(), std::uint8_t{24});
  std::uint32_t x = across ? kMargin : 0;
  std::uint32_t y = across ? 0 : kMargin;
  for (const Image& image : images) {
    for (std::uint32_t row = 0; row < image.height; ++row) {
      std::copy_n(image.at(0, row), std::size_t{3} * image.width, result.at(x, y + row));
    }
    if (across) {
      x += image.width + kMargin;
    } else {
      y += image.height;
    }
  }
  return result;
}

void write_png(const Image& image, const std::string& path) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = image.width;
  png.height = image.height;
  png.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&png, path.c_str(), 0, image.rgb.data(), 0, nullptr) == 0) {
    throw std::runtime_error("can't write " + path + ": " + png.message);
  }
}

struct Tally {
  std::uint64_t pixels = 0;
  std::uint64_t bright = 0;  // those lighter than the middle
};

Tally measure(const Image& image) {
  Tally tally;
  for (std::size_t i = 0; i < image.rgb.size(); i += 3) {
    ++tally.pixels;
    tally.bright += grey(&image.rgb[i]) > 127.5 ? 1 : 0;
  }
  return tally;
}

class PixelCounter {
 public:
  Tally add(Tally of) {
    sum_.pixels += of.pixels;
    sum_.bright += of.bright;
    return sum_;
  }

 private:
  Tally sum_;
};

constexpr std::uint32_t kWork = 960;   // width of the images that are filtered
constexpr std::uint32_t kThumb = 240;  // of those on the sheet; both are 3 : 2

int make_sheet(const std::vector<std::string>& photos, const std::string& out) {
  using mobula::remote;
  const auto counter = mobula::actor<PixelCounter>();
  std::vector<mobula::Ref<Image>> rows;
  mobula::Ref<Tally> total;
  for (const std::string& path : photos) {
    const auto photo = remote<read_photo>(path);
    remote<&PixelCounter::add>(counter, remote<measure>(photo));
    const auto image = remote<shrink>(photo, kWork, kWork * 2 / 3);
    std::vector<mobula::Ref<Image>> thumbs;
    for (const auto& version : {image, remote<blur>(image), remote<edges>(image), remote<sepia>(image)}) {
      total = remote<&PixelCounter::add>(counter, remote<measure>(version));
      thumbs.push_back(remote<shrink>(version, kThumb, kThumb * 2 / 3));
    }
    rows.push_back(remote<join>(thumbs, true));
  }
  write_png(mobula::get(remote<join>(rows, false)), out);
  const Tally tally = mobula::get(total);
  std::printf("%zu photographs, %llu pixels seen, %.1f %% of them bright: %s\n", photos.size(),
              static_cast<unsigned long long>(tally.pixels),
              100.0 * static_cast<double>(tally.bright) / static_cast<double>(tally.pixels), out.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    CLI::App app("Makes a contact sheet of photographs");
    std::vector<std::string> photos;
    std::string out = "sheet.png";
    app.add_option("photos", photos, "JPEG files")->required()->check(CLI::ExistingFile);
    app.add_option("-o", out, "the PNG file to write");
    CLI11_PARSE(app, argc, argv);
    return make_sheet(photos, out);
  });
}
