// SPDX-License-Identifier: Apache-2.0
//
// Run a package on one image with OpenVINO.
//
//   predict PACKAGE IMAGE [HEAT_MAP.png]
//
// Prints score and label as the Python example does, and writes the heat map as a grey picture with 0 to 255 for 0 to
// 1. IMAGE is PNG or JPEG and is read as training reads it: 16-bit colours lose their lower 8 bits, 16-bit grey is
// refused, alpha and gamma are ignored. It may have any size, because the model resizes. Exit code: 0, or 1 after an
// error.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>
#include <png.h>
#ifdef WITH_JPEG
#include <jpeglib.h>
#endif

namespace {

namespace fs = std::filesystem;

struct Image {
    std::size_t height = 0;
    std::size_t width = 0;
    std::vector<std::uint8_t> pixels;  // height x width x RGB
};

[[noreturn]] void fail(const fs::path& path, const std::string& reason) {
    throw std::runtime_error("'" + path.string() + "': " + reason);
}

// Opens a file, which is closed however the caller returns.
std::unique_ptr<std::FILE, int (*)(std::FILE*)> open_file(const fs::path& path) {
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.string().c_str(), "rb"), &std::fclose);
    if (!file) {
        fail(path, "cannot open it");
    }
    return file;
}

// libpng and libjpeg are C libraries: they report errors by longjmp, which runs no destructors. The functions that are
// skipped by the jump therefore own nothing.
struct PngReader {
    std::string message;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &jump_out, &ignore);
    png_infop info = png_create_info_struct(png);

    PngReader() = default;
    PngReader(const PngReader&) = delete;
    PngReader& operator=(const PngReader&) = delete;
    ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }

    [[noreturn]] static void jump_out(png_structp png, png_const_charp message) {
        static_cast<PngReader*>(png_get_error_ptr(png))->message = message;
        png_longjmp(png, 1);
    }

    static void ignore(png_structp, png_const_charp) {}
};

bool decode_png(std::FILE* file, PngReader& reader, Image& image) {
    if (setjmp(png_jmpbuf(reader.png)) != 0) {
        return false;
    }
    png_init_io(reader.png, file);
    png_read_info(reader.png, reader.info);
    if (png_get_bit_depth(reader.png, reader.info) == 16 &&
        png_get_color_type(reader.png, reader.info) == PNG_COLOR_TYPE_GRAY) {
        png_error(reader.png, "grey of more than 8 bits; convert it to 8 bits, as for training");
    }
    png_set_expand(reader.png);
    png_set_strip_16(reader.png);
    png_set_strip_alpha(reader.png);
    png_set_gray_to_rgb(reader.png);
    const int passes = png_set_interlace_handling(reader.png);
    png_read_update_info(reader.png, reader.info);
    image.height = png_get_image_height(reader.png, reader.info);
    image.width = png_get_image_width(reader.png, reader.info);
    image.pixels.resize(image.height * image.width * 3);
    for (int pass = 0; pass < passes; ++pass) {
        for (std::size_t row = 0; row < image.height; ++row) {
            png_read_row(reader.png, image.pixels.data() + row * image.width * 3, nullptr);
        }
    }
    return true;
}

Image read_png(const fs::path& path) {
    const auto file = open_file(path);
    PngReader reader;
    if (reader.info == nullptr) {
        fail(path, "libpng does not start");
    }
    Image image;
    if (!decode_png(file.get(), reader, image)) {
        fail(path, reader.message);
    }
    return image;
}

#ifdef WITH_JPEG
struct JpegErrors {
    jpeg_error_mgr manager{};  // first, because libjpeg only passes its address
    std::jmp_buf jump{};
    char message[JMSG_LENGTH_MAX] = "";
};

void jump_out(j_common_ptr info) {
    auto* errors = reinterpret_cast<JpegErrors*>(info->err);
    info->err->format_message(info, errors->message);
    std::longjmp(errors->jump, 1);
}

// If a file is truncated, libjpeg only warns and fills the rest with grey, which would get a score like an image.
void jump_out_of_damage(j_common_ptr info, int level) {
    if (level < 0) {
        jump_out(info);
    }
}

bool decode_jpeg(std::FILE* file, jpeg_decompress_struct& info, JpegErrors& errors, Image& image) {
    if (setjmp(errors.jump) != 0) {
        return false;
    }
    jpeg_stdio_src(&info, file);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    image.height = info.output_height;
    image.width = info.output_width;
    image.pixels.resize(image.height * image.width * 3);
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = image.pixels.data() + info.output_scanline * image.width * 3;
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
    return true;
}

Image read_jpeg(const fs::path& path) {
    const auto file = open_file(path);
    JpegErrors errors;
    jpeg_decompress_struct info{};
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = jump_out;
    errors.manager.emit_message = jump_out_of_damage;
    jpeg_create_decompress(&info);
    Image image;
    const bool decoded = decode_jpeg(file.get(), info, errors, image);
    jpeg_destroy_decompress(&info);
    if (!decoded) {
        fail(path, errors.message);
    }
    return image;
}
#endif

Image read_image(const fs::path& path) {
    if (!fs::is_regular_file(path)) {
        fail(path, "there is no such file");
    }
    std::string ending = path.extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
    if (ending == ".png") {
        return read_png(path);
    }
#ifdef WITH_JPEG
    if (ending == ".jpg" || ending == ".jpeg") {
        return read_jpeg(path);
    }
    fail(path, "only .png, .jpg and .jpeg are read");
#else
    fail(path, "only .png is read; build with libjpeg for .jpg");
#endif
}

// The graph expects numbers from 0 to 1, channels first. The conversion is compiled into it, which saves a copy here.
std::shared_ptr<ov::Model> take_bytes(std::shared_ptr<ov::Model> model) {
    ov::preprocess::PrePostProcessor steps(model);
    steps.input().tensor().set_element_type(ov::element::u8).set_layout("NHWC");
    steps.input().preprocess().convert_element_type(ov::element::f32).scale(255.0F);
    steps.input().model().set_layout("NCHW");
    return steps.build();
}

void write_heat_map(const fs::path& path, const ov::Tensor& map) {
    const float* values = map.data<const float>();
    std::vector<std::uint8_t> grey(map.get_size());
    std::transform(values, values + grey.size(), grey.begin(), [](float value) {
        return static_cast<std::uint8_t>(std::nearbyint(std::clamp(value, 0.0F, 1.0F) * 255.0F));
    });
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    png.height = static_cast<png_uint_32>(map.get_shape()[2]);
    png.width = static_cast<png_uint_32>(map.get_shape()[3]);
    png.format = PNG_FORMAT_GRAY;
    if (!png_image_write_to_file(&png, path.string().c_str(), 0, grey.data(), 0, nullptr)) {
        fail(path, png.message);
    }
}

void run(const fs::path& package, const fs::path& image_path, const fs::path& heat_map) {
    Image image = read_image(image_path);
    ov::Core core;
    // f32: by default OpenVINO uses bfloat16 on processors that have it, which is faster and loses three digits.
    ov::CompiledModel model = core.compile_model(take_bytes(core.read_model((package / "1" / "model.xml").string())),
                                                 "CPU",
                                                 ov::hint::inference_precision(ov::element::f32),
                                                 ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    ov::InferRequest request = model.create_infer_request();
    request.set_input_tensor(
        ov::Tensor(ov::element::u8, ov::Shape{1, image.height, image.width, 3}, image.pixels.data()));
    request.infer();

    const float score = *request.get_tensor("pred_score").data<const float>();
    const bool anomalous = *request.get_tensor("pred_label").data<const bool>();
    std::cout << std::fixed << std::setprecision(6) << "score: " << score << '\n'
              << "label: " << (anomalous ? "anomalous" : "normal") << '\n';
    write_heat_map(heat_map, request.get_tensor("anomaly_map"));
}

}  // namespace

int main(int argc, char* argv[]) {
    if (argc < 3 || argc > 4) {
        std::cerr << "usage: predict PACKAGE IMAGE [HEAT_MAP.png]\n";
        return 1;
    }
    try {
        run(argv[1], argv[2], argc == 4 ? argv[3] : "heat_map.png");
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
